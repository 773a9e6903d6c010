"""QLoRA on GSM8K with TRL's GRPOTrainer and parameter-space noise: what PSN changes are two imports and `sigma`.

    pip install -e '.[trl,qlora,math]'

One GPU; two GPUs; eight with DeepSpeed ZeRO-2; eight with FSDP, where weights are in shards and the noise stands beside
them (an adapter on a base in bfloat16):

    python examples/trl_gsm8k_qlora.py --output_dir out
    accelerate launch --multi_gpu --num_processes 2 examples/trl_gsm8k_qlora.py --output_dir out
    accelerate launch --use_deepspeed --zero_stage 2 --num_processes 8 examples/trl_gsm8k_qlora.py --output_dir out
    accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --num_processes 8 \\
        examples/trl_gsm8k_qlora.py --output_dir out --four_bit false

A vLLM server on one GPU and the training of all weights on another (vLLM takes no noise beside an adapter):

    CUDA_VISIBLE_DEVICES=0 trl vllm-serve --model Qwen/Qwen2.5-1.5B-Instruct
    CUDA_VISIBLE_DEVICES=1 python examples/trl_gsm8k_qlora.py --output_dir out --use_vllm --vllm_mode server \\
        --four_bit false --rank 0

Without a GPU, a network or a minute to spare: two steps of the small model that is shipped, on made-up problems:

    python examples/trl_gsm8k_qlora.py --output_dir out --dry_run --use_cpu

Only the dry run and the tests in tests/integrations were run by the authors; the launch lines for GPUs were not. Every
setting of TRL and of PSNConfig is a flag. The noise is held at a KL by default; --sigma 0 is TRL's GRPO.
"""

from dataclasses import dataclass, field

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import TrlParser

from psn_tutorial.integrations.trl import PSNConfig, PSNGRPOTrainer
from psn_tutorial.models.bases import base_folder
from psn_tutorial.tasks.math import verify_many

ASK = "{question}\nThink step by step, and put the final answer into \\boxed{{}}."


@dataclass
class Script:
    model: str = field(default="Qwen/Qwen2.5-1.5B-Instruct", metadata={"help": "a name of the hub, or a folder"})
    rank: int = field(default=16, metadata={"help": "of the adapter; 0: all weights learn"})
    four_bit: bool = field(default=True, metadata={"help": "hold the base in 4 bits; needs an adapter"})
    dry_run: bool = field(default=False, metadata={"help": "two steps on a CPU, with nothing to fetch"})


def problems(dry_run: bool) -> Dataset:
    """Conversations in the column "prompt", and the right answers in "answer", which TRL hands to the reward."""
    if dry_run:
        rows = [{"question": f"Anna has {n} apples and buys {n + 2}. How many?", "answer": 2 * n + 2} for n in range(8)]
        data = Dataset.from_list([row | {"answer": f"#### {row['answer']}"} for row in rows])
    else:
        data = load_dataset("openai/gsm8k", "main", split="train")
    return data.map(
        lambda row: {
            "prompt": [{"role": "user", "content": ASK.format(question=row["question"])}],
            "answer": row["answer"].rpartition("####")[2].strip().replace(",", ""),
        },
        remove_columns="question",
    )


def correct(completions: list, answer: list[str], **_) -> list[float]:
    """TRL's reward: 1 for an answer that math-verify takes for the right one."""
    return [float(verdict) for verdict in verify_many([turns[0]["content"] for turns in completions], answer)]


def main(words: list[str] | None = None) -> PSNGRPOTrainer:
    parser = TrlParser((Script, PSNConfig))
    parser.set_defaults(
        learning_rate=2e-5,
        num_generations=8,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=8,  # 64 rollouts a step and process
        max_completion_length=512,
        loss_type="grpo",  # as in the paper: the mean over each answer
        draws=8,  # noise draws a step, spread over the answers to each problem
        logging_steps=1,
    )
    script, config = parser.parse_args_and_config(words)
    if script.dry_run:
        small = {"max_steps": 2, "gradient_accumulation_steps": 1, "max_completion_length": 16}
        parser.set_defaults(model=str(base_folder("sums")), **small)
        script, config = parser.parse_args_and_config(words)
    lora = LoraConfig(r=script.rank, lora_alpha=2 * script.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    config.model_init_kwargs = {"dtype": "bfloat16" if script.rank else "float32"}
    trainer = PSNGRPOTrainer(
        script.model,
        correct,
        config,
        problems(script.dry_run),
        peft_config=lora if script.rank else None,
        quantization_config=nf4 if script.four_bit and script.rank else None,
    )
    trainer.train()
    trainer.save_model()  # the clean adapter, or the clean weights
    return trainer


if __name__ == "__main__":
    main()
