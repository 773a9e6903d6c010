"""Probe a policy with several samplers and keep the result: probe.jsonl in a run folder, one line per sampler.

A folder takes more samplers later; those it has are not sampled again, and a job that was killed goes on with the next.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from psn_tutorial.config import ProbeConfig
from psn_tutorial.evaluation.calibrate import OutOfReachError
from psn_tutorial.evaluation.matching import sampler_of_kl
from psn_tutorial.evaluation.probes import Probe, Sampler, figures, read_probes
from psn_tutorial.evaluation.probing import probe
from psn_tutorial.extensions import origins
from psn_tutorial.jobs.evaluating import check_policy, open_or_create
from psn_tutorial.jobs.policies import device_of, fingerprint, load_policy, source_of_base
from psn_tutorial.jobs.problems import held_out_problems
from psn_tutorial.models.encoders import sentence_encoder
from psn_tutorial.models.policy import Policy
from psn_tutorial.models.qlora import QLoRAConfig, load_base
from psn_tutorial.runs.files import append_line, drop_half_line, in_words
from psn_tutorial.settings import to_mapping
from psn_tutorial.tasks import get_task

FOR_MATCHING, EACH = 64, 4  # problems, and answers to each, that a setting of equal KL is looked for with


def probe_policy(
    folder: str | Path,
    policy: str | Path,
    config: ProbeConfig,
    samplers: Sequence[Sampler],
    match: Sequence[str] = (),
    command: Sequence[str] | None = None,
    progress: bool = False,
) -> Iterator[Probe]:
    """Probe ``policy`` with each sampler, and after each with noise at the settings ``match``, of "temperature" and
    "top_p", that have its KL; yields every probe, those that ``folder`` held already too.

    Raises UserError, before anything is written, for a policy that cannot do the task or a site that it has not.
    """
    task = get_task(config.task, **config.difficulty)
    problems = held_out_problems(task, config)
    loaded = _loaded(policy, config)
    check_policy(loaded, task, problems)
    settings = {**to_mapping(config), "policy_sha256": fingerprint(loaded.model)}
    sources = source_of_base(policy) | origins(settings, task, [to_mapping(sampler) for sampler in samplers])
    run = open_or_create(folder, settings, command, sources)
    path = run.path / "probe.jsonl"
    with in_words(path, "what stood there is kept"):
        drop_half_line(path)
    held = {(str(p.sampler), p.matches): p for p in read_probes(path)}
    by_match = {(p.matches, "top_p" if p.sampler.top_p < 1 else "temperature"): p for p in held.values() if p.matches}
    how = {"answers": config.answers, "sets": config.sets, "seed": config.seed, "batch": config.batch}
    how["encoder"] = sentence_encoder(config.encoder) if config.encoder else None

    def kept(sampler: Sampler, matches: str = "") -> Probe:
        if (str(sampler), matches) not in held:
            made = probe(loaded, task, problems, sampler, **how, matches=matches, progress=progress)
            with in_words(path, "what stood there is kept"):
                append_line(path, json.dumps(made.to_json()).encode() + b"\n")
            held[str(sampler), matches] = made
        return held[str(sampler), matches]

    try:
        for sampler in samplers:
            made = kept(sampler)
            yield made
            for setting in match if sampler.sigma else ():
                known = by_match.get((str(sampler), setting))
                equal = known.sampler if known else _equal(loaded, task, problems, made, setting, config)
                if equal:
                    yield kept(equal, str(sampler))
    except BaseException:
        run.discard_if_empty()
        raise
    run.record_time()


def _loaded(policy: str | Path, config: ProbeConfig) -> Policy:
    if config.four_bit or config.compute != "float32":
        settings = QLoRAConfig(str(policy), config.four_bit, compute=config.compute)
        return load_base(settings, device_of(config.device))
    return load_policy(policy, config.device)


def _equal(loaded: Policy, task, problems, made: Probe, setting: str, config: ProbeConfig) -> Sampler | None:
    """The sampler with the KL of ``made``; None where none has it."""
    target = figures(made, ())["KL"].value
    if target <= 0:  # noise that changes nothing
        return None
    try:
        return sampler_of_kl(loaded, task, problems[:FOR_MATCHING], target, setting, config.seed, config.batch, EACH)
    except OutOfReachError:
        return None
