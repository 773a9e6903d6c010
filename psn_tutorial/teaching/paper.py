"""From the paper to the code: every step and identity of the method, its function, its test, its notebook cell.

The index is data. docs/tables.py writes it into the pages of docs/ as tables with links; tests/notebooks/test_index.py
holds it to the code in both directions: what an entry names exists, and what the library offers of the method has an
entry.

Sources: "paper" is arXiv 2602.02555, "released" is github.com/baibizhe/psn_rlvr at commit 6a27058 (read, not run).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("what", "formula", "source", "function", "test", "notebook")


@dataclass(frozen=True)
class Entry:
    """One thing the method consists of.

    Attributes:
        what: in words.
        formula: in LaTeX, or "".
        source: where it comes from.
        function: "module:name", inside psn_tutorial; a method as "module:Class.name".
        test: "file.py::test", inside tests.
        notebook: its number; one of its cells names the function. "" where the pages of docs/ explain it.
        released: what the authors' released code does instead, or "".
    """

    what: str
    formula: str
    source: str
    function: str
    test: str
    notebook: str
    released: str = ""

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]

    @property
    def name(self) -> str:
        """The function's own name, without module and class."""
        return self.function.rpartition(":")[2].rpartition(".")[2]

    @property
    def file(self) -> Path:
        """The file of the function, from the repository's root."""
        return Path("psn_tutorial", *self.module.split(".")).with_suffix(".py")

    @property
    def notebook_file(self) -> Path | None:
        """The notebook, from the repository's root; None when there is none of that number."""
        if not self.notebook:
            return None
        return next((p.relative_to(ROOT) for p in sorted(ROOT.glob(f"notebooks/{self.notebook}_*.ipynb"))), None)

    def load(self) -> Any:
        """The function itself; raises ImportError or AttributeError when it is not there."""
        found: Any = import_module(f"psn_tutorial.{self.module}")
        for part in self.function.partition(":")[2].split("."):
            found = getattr(found, part)
        return found


def _entries(*rows: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(Entry(*row) for row in rows)


# The formatter would write every field on a line of its own.
# fmt: off
METHOD = _entries(
    ("One draw of noise disturbs the weights of the sampler",
     r"\tilde\theta = \theta + \varepsilon,\ \varepsilon \sim \mathcal N(0, \sigma^2 I)", "paper, method",
     "noise:perturbed", "test_noise.py::test_noise_changes_its_targets_and_nothing_else_and_goes_away_bitwise", "03"),
    ("One draw for a whole answer: what that is worth where it moves all choices alike",
     r"\mathbb E_\varepsilon\big[\prod_t p_t(\varepsilon)\big] \ge \prod_t \mathbb E_\varepsilon[p_t(\varepsilon)]",
     "paper, abstract", "teaching.exact:gaussian_mean",
     "teaching/test_exact.py::test_gaussian_mean_is_the_integral", "04"),
    ("Which weights: the feed-forward ones in the paper", r"\varepsilon_i = 0 \text{ outside the targets}",
     "paper, injection sites", "noise:NoiseConfig", "test_noise.py::test_roles_are_those_of_the_modules", "04"),
    ("A draw is a function of seed, number and name", r"\varepsilon = g(\text{seed}, \text{draw}, \text{name})",
     "ours", "noise:gaussian", "test_noise.py::test_draws_are_functions_of_seed_draw_and_name", ""),
    ("Every other random choice is a function of seed, purpose and step", r"u = g(\text{seed}, \text{purpose}, k)",
     "ours", "noise:stream", "test_rollout.py::test_random_streams_differ_by_purpose_and_step", "03"),
    ("What the noise really did, after the cast to the weights' type",
     r"\hat\sigma = \mathrm{rms}(\tilde\theta - \theta)", "ours", "noise:NoiseReceipt",
     "test_noise.py::test_the_receipt_measures_what_was_done", ""),
    ("How far the sampler is from the policy, so that explorers are compared at one distance",
     r"\mathrm{KL}(\mu \parallel \pi) \text{ per token}", "ours", "evaluation.calibrate:sampler_kl",
     "evaluation/test_calibrate.py::test_it_is_the_kl_of_the_samplers_own_trajectories", "04"),
    ("The sigma or temperature that has a given distance", "", "ours", "evaluation.calibrate:find_setting",
     "evaluation/test_calibrate.py::test_a_root_is_found_to_the_tolerance", "04"),
    ("Several draws in one batch, each row with its own", r"\tilde\theta_j = \theta + \varepsilon_j,\ j = 1 \dots N",
     "ours", "noise:stacked", "test_noise.py::test_stacked_draws_are_bitwise_the_draws_in_place", "03"),
    ("How the draws of a step are shared among the groups", "", "ours; one for all as released",
     "rollout:spread_draws", "test_rollout.py::test_draws_are_spread_evenly", "03"),
    ("A base in four bits, a small adapter that learns", r"y = \hat W x + \tfrac{\alpha}{r} B A x",
     "QLoRA, arXiv 2305.14314", "models.qlora:load_qlora",
     "models/test_qlora.py::test_gradients_are_those_of_the_dequantised_model", "07"),
    ("Noise of low rank beside the rounded weights, never formed", r"x \mapsto \hat W x + B(Ax),\ \varepsilon = BA",
     "ours; as EGGROLL, arXiv 2511.16652", "carriers:carried",
     "test_carriers.py::test_the_low_rank_noise_has_its_rank_its_size_and_its_receipt", "07"),
    ("G rollouts per prompt from the noisy policy, with its log-probabilities", r"o \sim \mu = \pi_{\tilde\theta}",
     "paper, method", "rollout:sample", "test_rollout.py::test_logps_are_those_of_the_policy_that_sampled", "03"),
    ("A program verifies every answer", r"r \in \{0, 1\}", "RLVR", "tasks.countdown:verify",
     "tasks/test_countdown.py::test_every_rejection_gives_its_reason", "03"),
    ("Rewards are compared within their group", r"A_i = \frac{r_i - \bar r}{\mathrm{std}(r)}",
     "GRPO, arXiv 2402.03300", "advantages:group_advantages", "test_advantages.py::test_standardised_by_hand", "02"),
    ("A group of equal rewards teaches nothing", r"r_1 = \dots = r_G \Rightarrow A = 0", "GRPO",
     "advantages:zero_contrast", "test_advantages.py::test_no_contrast_is_exactly_zero", "02"),
    ("Reward the group's best of k instead (composable with noise)", r"R = 1 - \binom{G - c}{k} / \binom{G}{k}",
     "arXiv 2508.10751", "advantages:pass_at_k_advantages", "test_advantages.py::test_pass_at_k_is_its_definition",
     "02"),
    ("Log-probabilities of the clean policy, read at the same temperature", r"\log \pi_\theta(o_t \mid o_{<t})",
     "paper, method", "rollout:completion_logps",
     "test_rollout.py::test_completion_logps_are_read_at_the_right_places", "03"),
    ("Truncated importance weights, per token",
     r"w_t = \min\!\big(\pi_\theta(o_t) / \pi_{\tilde\theta}(o_t),\ C\big),\ C = 10", "paper, TIS",
     "importance:importance_weights",
     "test_importance.py::test_the_default_is_the_papers_token_level_truncation_at_ten", "05"),
    ("With several draws: weigh against their mixture", r"\mu = \tfrac1N \sum_j \mu_j", "ours; balance heuristic",
     "importance:mixture_logps", "test_importance.py::test_mixture_conditionals_multiply_to_the_mean_of_the_draws",
     "05"),
    ("The weighted, clipped loss, averaged per response",
     r"-\tfrac1B \sum_b \tfrac1{|o_b|} \sum_t w_t \min(r_t A, \mathrm{clip}(r_t) A)", "paper, TIS; GRPO",
     "losses:policy_loss", "test_trainer.py::test_the_gradient_of_one_update_is_the_formula", "02"),
    ("What the loss is divided by: rollouts, tokens, or the longest answer", "", "GRPO; DAPO; Dr. GRPO",
     "losses:loss_normaliser", "test_losses.py::test_normalisers_by_hand", ""),
    ("KL to the base policy, by k3", r"\rho - 1 - \log \rho,\ \rho = \pi_\text{ref} / \pi_\theta", "GRPO, equation 4",
     "losses:kl_k3", "test_losses.py::test_k3_is_unbiased_for_kl_of_the_policy_to_the_reference", "02"),
    ("The whole step; the update goes to the clean weights", r"\theta \leftarrow \theta - \eta \nabla_\theta L",
     "paper, method", "trainer:Trainer.step", "test_trainer.py::test_it_learns_from_noisy_rollouts_too", "03"),
    ("Fixed noise", r"\sigma_k = \sigma", "paper, fixed noise", "schedulers:ConstantSigma",
     "test_schedulers.py::test_constant_stays", "06"),
    ("Noise that fades", r"\sigma_k : \sigma_0 \to \sigma_K", "QeRL", "schedulers:AnnealedSigma",
     "test_schedulers.py::test_annealing_by_hand", "06"),
    ("Variant I: keep the KL of noisy and clean policy near a target",
     r"\sigma \leftarrow \sigma / 1.01 \text{ if } k_1 > 1.1\,\kappa,\ 1.01\,\sigma \text{ if } k_1 < \kappa / 1.1",
     "released, ray_trainer.py", "schedulers:KLTargetSigma",
     "test_schedulers.py::test_kl_target_is_the_released_rule", "06"),
    ("Variant II: more noise when the rollouts collapse, less when they are diverse",
     r"\sigma \leftarrow \sigma / \beta \text{ if } I > I^*, \text{ else } \beta \sigma,\ \beta < 1",
     "paper, equation 10; not released", "schedulers:RealtimeSigma",
     "test_schedulers.py::test_it_is_the_quoted_rule_with_beta_the_inverse_of_the_factor", "06"),
    ("Its first signal: how alike the answers to one prompt are", r"\overline{\cos(e_i, e_j)},\ i \ne j",
     "paper, Variant II", "signals:semantic_similarity",
     "test_signals.py::test_it_is_the_mean_over_pairs_within_a_group", "06"),
    ("The same for each group", "", "paper, Variant II", "signals:group_similarities",
     "test_signals.py::test_similarity_of_equal_orthogonal_and_opposite_answers", "06"),
    ("What turns an answer into a vector", "e_i", "paper, Variant II",
     "models.encoders:sentence_encoder",
     "models/test_encoders.py::test_each_different_text_is_encoded_once_and_stands_where_it_was", "06"),
    ("Its second signal: self-certainty, the mean over tokens", r"\tfrac1T \sum_t \mathrm{KL}(U \parallel \pi_t)",
     "paper, equation 8", "signals:self_certainty",
     "test_signals.py::test_it_is_the_mean_over_completion_tokens_whatever_stands_in_the_padding", "06"),
    ("The certainty of one distribution, in both directions of the KL",
     r"\mathrm{KL}(U \parallel p) \text{ or } \mathrm{KL}(p \parallel U)", "ours", "signals:token_certainty",
     "test_signals.py::test_they_are_scipys_kl_divergences", "06"),
    ("The chance that one of k samples is right, without bias", r"1 - \binom{n - c}{k} / \binom{n}{k}",
     "arXiv 2107.03374", "evaluation.estimators:pass_at_k",
     "evaluation/test_estimators.py::test_pass_at_k_is_the_mean_over_all_subsets",
     "01"),
    ("The same over problems, with its interval", "", "bootstrap", "evaluation.estimators:pass_at_k_interval",
     "evaluation/test_estimators.py::test_pass_at_16_covers_a_beta_binomial_population", ""),
    ("How many of all solutions the samples find", "", "ours", "evaluation.estimators:coverage",
     "evaluation/test_estimators.py::test_coverage_is_the_mean_over_all_subsets", "01"),
    ("Several metrics of an arm at once, with intervals", "", "ours", "evaluation.metrics:summarise",
     "evaluation/test_metrics.py::test_several_evaluations_are_seeds", "01"),
    ("Two arms on the same problems: the paired difference", "", "ours", "evaluation.intervals:paired_difference",
     "evaluation/test_intervals.py::test_paired_difference_covers_where_the_unpaired_one_would_be_far_too_wide", "01"),
    ("Two arms, every metric, with intervals of the difference", "", "ours", "evaluation.metrics:compare",
     "evaluation/test_metrics.py::test_compare_several_seeds", "01"),
    ("Noise by depth: in a third of the layers, or in some of them", r"\varepsilon_i = 0 \text{ outside the layers}",
     "ours", "sites:in_layers", "test_sites.py::test_every_layer_is_in_one_third_and_the_thirds_are_symmetric", ""),
    ("A neighbour: random words before the prompt while sampling, the clean prompt updated",
     r"w_t = \pi_\theta(o_t \mid p, o_{<t}) / \pi_\theta(o_t \mid \delta, p, o_{<t})", "LoPE, arXiv 2605.05566",
     "prefixes:sample_behind_prefixes",
     "test_prefixes.py::test_the_gradient_is_that_of_the_clean_prompt_with_the_ratio_to_the_prefixed_one", ""),
    ("A neighbour: problems that an earlier step has solved no longer learn",
     r"A_i = 0 \text{ once the problem is solved}", "after arXiv 2606.15455", "advantages:only_unsolved",
     "test_trainer.py::test_what_an_earlier_step_has_solved_no_longer_learns", ""),
    ("Two arms at equal pass@1, where a slow learner is no explorer", "", "ours", "evaluation.frontier:frontier",
     "evaluation/test_frontier.py::test_a_slower_arm_is_not_above_though_it_wins_at_equal_steps", "08"),
)

# The ten statements of notebook 05, by their numbers; the first has two halves.
IDENTITIES = _entries(
    ("Sequence weights give the true gradient", r"\mathbb E_\mu[w\, R\, \nabla \log \pi] = \nabla \mathbb E_\pi[R]",
     "statement 1", "teaching.exact:value_gradient",
     "teaching/test_identities.py::test_statement_1_sequence_weights_give_the_true_gradient", "05"),
    ("Token weights give that of following the sampler but for one step",
     r"\mathbb E_\mu[R \textstyle\sum_t w_t \nabla \log \pi_t] = \nabla \sum_t J_t", "statement 1",
     "teaching.exact:surrogate_gradient",
     "teaching/test_identities.py::test_statement_1_token_weights_give_the_gradient_of_one_step_deviations", "05"),
    ("The bias of a cap", r"\mathbb E_\mu[\min(w, C) f] - \mathbb E_\pi[f] = -\mathbb E_\mu[(w - C)_+ f]",
     "statement 2", "importance:importance_weights",
     "teaching/test_identities.py::test_statement_2_bias_and_second_moment_of_truncation", "05"),
    ("What truncation and masking are exact for", r"\min(\pi, C \mu) \text{ and } \pi\, \mathbf 1[w \le C]",
     "statement 3", "importance:importance_weights",
     "teaching/test_identities.py::test_statement_3_truncating_and_masking_are_exact_for_other_targets", "05"),
    ("The effective sample size is a chi-square", r"\mathrm{ESS} / n \to 1 / (1 + \chi^2(\pi, \mu))", "statement 4",
     "teaching.exact:population_ess",

         "teaching/test_identities.py::test_statement_4_ess_is_one_over_one_plus_chi_square_and_a_capped_one_has_a_floor",
     "05"),
    ("A small KL puts few ratios above the cap", r"P_\mu(w > C) \le \mathrm{KL}(\mu \parallel \pi) / (C - 1 - \ln C)",
     "statement 5", "teaching.exact:kl",
     "teaching/test_identities.py::test_statement_5_the_kl_bounds_how_many_ratios_a_cap_can_touch",
     "05"),
    ("A baseline adds no bias if there is no cap", r"\mathbb E_\mu[w \nabla \log \pi] = 0", "statement 6",
     "importance:importance_weights",
     "teaching/test_identities.py::test_statement_6_a_baseline_is_free_without_a_cap_only",
     "05"),
    ("Sequence weights of long noisy answers are close to 0", r"\mathrm{median}(w) \approx e^{-\mathrm{KL} \cdot T}",
     "statement 7", "importance:importance_weights",
     "teaching/test_identities.py::test_statement_7_the_median_ratio_falls_as_exp_of_minus_the_kl", "05"),
    ("k1 and k3 are unbiased estimates; as losses their gradients are not that KL's",
     r"\mathbb E_\mu[-\log w] = \mathbb E_\mu[w - 1 - \log w] = \mathrm{KL}(\mu \parallel \pi)", "statement 8",
     "teaching.exact:kl",
     "teaching/test_identities.py::test_statement_8_the_three_estimators_as_numbers_and_as_losses", "05"),
    ("Mixture weights are unbiased and vary less", r"\pi / \tfrac1N \sum_j \mu_j \le N\, \pi / \mu_i", "statement 9",
     "importance:mixture_logps",
     "teaching/test_identities.py::test_statement_9_mixture_weights_are_unbiased_and_vary_less",
     "05"),
    ("The denominator is what generated the tokens, its temperature included",
     r"\mu(o_t) = \mathrm{softmax}(\ell / T)_{o_t}", "statement 10", "importance:importance_weights",
     "teaching/test_identities.py::test_statement_10_the_denominator_is_what_generated_the_tokens", "05"),
)

DIVERGENCES = _entries(
    ("Noise acts where its filter says, and the receipt lists where", "", "vllm_rollout.py", "noise:perturbed",
     "test_noise.py::test_noise_changes_its_targets_and_nothing_else_and_goes_away_bitwise", "03",
     "The filter is commented out where the noise is applied: every tensor is disturbed, norms and embeddings too"),
    ("Every evaluation sees the clean weights", "", "ray_trainer.py", "evaluation.sampling:evaluate",
     "test_divergences.py::test_evaluations_during_training_see_the_clean_weights", "",
     "Validation during training runs on noisy weights: the switch to clean ones needs a flag off that is always on"),
    ("A seed is a hash of (seed, draw, name)", "", "vllm_rollout.py", "noise:gaussian",
     "test_divergences.py::test_seeds_of_draws_practically_never_recur", "",
     "step ^ adler32(name), which comes back to the same seeds"),
    ("Every rank draws the same noise", "", "vllm_rollout.py", "noise:gaussian",
     "test_divergences.py::test_every_rank_draws_the_same_noise", "",
     "No seed by default: each rollout replica draws its own"),
    ("As many draws as asked for, also inside a group", "", "vllm_rollout.py", "rollout:spread_draws",
     "test_rollout.py::test_draws_are_spread_evenly", "03", "One draw for all rollouts of a step"),
    ("The number of updates per batch is a setting, 1 by default", "", "launcher", "config:TrainConfig",
     "test_divergences.py::test_the_number_of_updates_is_a_setting_and_one_by_default", "",
     "A mini-batch size written into the code: many updates of each batch, and the policy drifts on top of the noise"),
    ("Variant I costs no forward pass", "", "ray_trainer.py", "schedulers:KLTargetSigma",
     "test_divergences.py::test_the_kl_target_costs_no_forward_pass", "03",
     "The same: it reads the two log-probabilities that the weights need anyway"),
    ("Realised sigma and unchanged share are measured and logged", "", "its floor of sigma", "noise:NoiseReceipt",
     "test_noise.py::test_bf16_swallows_small_noise", "",
     "Nothing says how much of the noise is lost by rounding to bf16"),
)


def _threads(*paths: str) -> str:
    """Links to public threads, each under the name of its repository and its number."""
    return ", ".join(f"[{p.split('/')[1]} {p.split('/')[3]}](https://github.com/{p})" for p in paths)


# What users of such software ask; the source is the thread, the test settles it.
QUESTIONS = _entries(
    ("Why is my loss 0?", "", _threads("huggingface/open-r1/issues/239", "huggingface/trl/issues/3452"),
     "losses:policy_loss", "test_losses.py::test_one_on_policy_update_follows_the_exact_policy_gradient", ""),
    ("The rewards vary, and nothing is learned. Why?", "",
     _threads("huggingface/trl/issues/3857", "Goekdeniz-Guelmez/mlx-lm-lora/issues/55"),
     "advantages:group_advantages", "test_advantages.py::test_no_contrast_is_exactly_zero", ""),
    ("Why are my ratios not 1 on policy?", "", _threads("huggingface/trl/issues/4159"),
     "importance:importance_weights", "test_rollout.py::test_logps_are_those_of_the_policy_that_sampled", ""),
    ("May I sample with top-p?", "", _threads("huggingface/trl/issues/6789"), "rollout:sample",
     "test_rollout.py::test_choose_samples_the_softmax_at_its_temperature", ""),
    ("How do I see what the cap hides?", "", _threads("huggingface/trl/issues/5231"), "importance:ImportanceWeights",
     "test_importance.py::test_population_ess_is_one_over_one_plus_chi_square", ""),
    ("I set a seed. Is everything seeded?", "", _threads("huggingface/trl/issues/6688"), "noise:gaussian",
     "test_divergences.py::test_every_rank_draws_the_same_noise", ""),
    ("Every reward is 0. Is it the model or the verifier?", "",
     _threads("verl-project/verl/pull/5635", "verl-project/verl/pull/5839"), "tasks.math:verify_math",
     "tasks/test_verifier.py::test_threads_get_their_own_verdicts", ""),
    ("My accuracy differs from the reported one. Is that a difference?", "", _threads("lsdefine/simple_GRPO/issues/40"),
     "evaluation.estimators:pass_at_k_interval",
     "evaluation/test_estimators.py::test_pass_at_16_covers_a_beta_binomial_population", ""),
    ("Another machine gives other digits. Is that a bug?", "", _threads("rasbt/reasoning-from-scratch/issues/152"),
     "trainer:Trainer.restore", "test_trainer.py::test_a_resumed_run_is_bitwise_the_uninterrupted_one", ""),
    ("An update of a library broke it. Which versions work?", "", _threads("unslothai/unsloth/issues/3081"),
     "preflight.machine:examine", "test_project.py::test_the_lock_file_fits_the_ranges", ""),
)
# fmt: on

INDEX = METHOD + IDENTITIES + DIVERGENCES + QUESTIONS


def table(entries: Sequence[Entry], columns: Sequence[str] = COLUMNS) -> str:
    """The entries as a Markdown table, with links as seen from the folder docs/; "file.py#name" is that name in it."""
    heading = {"what": "here", "released": "in the released code"} if "released" in columns else {}
    rows = [["", *(heading.get(column, column) for column in columns)], ["---"] * (len(columns) + 1)]
    for number, entry in enumerate(entries, 1):
        file, _, test = entry.test.partition("::")
        name = entry.function.partition(":")[2]
        cells = {
            "what": entry.what,
            "formula": f"${entry.formula}$".replace("|", r"\vert ") if entry.formula else "",  # a bar ends a cell
            "released": entry.released,
            "source": entry.source,
            "function": f"{entry.module} [`{name}`](../{entry.file}#{name})",
            "test": f"[{test.removeprefix('test_').replace('_', ' ')}](../tests/{file}#{test})",
            "notebook": f"[{entry.notebook}](../{entry.notebook_file})" if entry.notebook else "",
        }
        rows.append([str(number), *(cells[column] for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
