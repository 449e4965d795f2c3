"""The training loop: score a batch, update the weights, and now and then log, validate and save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from cpc.data import Batch, collate
from cpc.devices import autocast
from cpc.runs import gain
from cpc.train.metrics import Log, RunningMean
from cpc.train.networks import Represent, build_represent
from cpc.train.optim import learning_rate
from cpc.train.setup import Parts, num_valid_frames
from cpc.train.state import State, save_best, save_kept, save_last
from cpc.train.stopping import Flag, finish_update_on_signal
from cpc.train.trouble import diverged, first_not_finite, leave_out
from cpc.train.views import Result, Views


def fit(parts: Parts, state: State, running: RunningMean, loader: Iterable[Batch], run: Path, stop: Flag) -> None:
    """Train the network batch by batch; log, validate and save on the way.

    Args:
        parts: all that an update needs; the network is trained in place.
        state: how far the run has come; kept up to date.
        running: means of the updates that are not logged yet; kept up to date.
        loader: the batches of the updates that are left.
        run: folder to write to.
        stop: true once the run shall stop.

    Raises:
        TrainingError: the loss or a weight is not finite.
        Stopped: a signal or the time limit asked for it; everything is saved.
    """
    config, ranks = parts.config, parts.ranks
    represent = build_represent(config, parts.network, parts.profile, parts.device, state.update)
    log = Log(run / "metrics.jsonl", parts, state.update, state.seconds, state.bad_audio)
    parts.trained.train()
    with log, finish_update_on_signal(stop):
        for batches in zip(*[iter(loader)] * config.batches.accumulate, strict=True):
            log.say(parts.threads.adapt())
            log.say(parts.profile.next_update())
            lr = learning_rate(state.update, config.optim, config.train.num_updates)
            state.update += 1
            for result in (results := step(parts, represent, batches, lr, state.update)):
                running.add(result)
            if not results:
                state.skipped += 1
                log.say(leave_out(run, parts, batches, state.update, state.skipped))
            log.advance(batches)

            is_last = state.update == config.train.num_updates
            is_due = state.update % config.train.log_every == 0 or is_last
            # All ranks must stop after the same update: several agree on it when they log, a single one stops at once.
            stopping = (is_due or ranks.size == 1) and ranks.any(bool(stop), parts.device)
            if is_due and running:
                facts = {"lr": lr, "skipped_updates": state.skipped}
                line = log.train(state.update, facts, running.take(ranks.average))
                if not line["loss"] < float("inf"):
                    raise diverged(run, f"the loss is {line['loss']} after update {state.update}")
            state.seconds = log.seconds
            saves_last = state.update % config.train.checkpoint_every == 0 or is_last or stopping
            saves_kept = config.train.keep_every and state.update % config.train.keep_every == 0
            validates = state.update % config.train.validate_every == 0 or is_last
            if (saves_last or saves_kept or validates) and (name := first_not_finite(parts.trained)):
                raise diverged(run, f"the weight {name} is not finite after update {state.update}")
            if validates:
                line = log.dev(state.update, validate(parts, represent).take())
                if gain(line) > state.best_gain:
                    state.best_gain = gain(line)
                    save_best(run, parts, state)
            if saves_kept:
                save_kept(run, parts, state)
            if saves_last:
                save_last(run, parts, state, running)
            parts.profile.mark("other")
            if stopping and not is_last:
                raise stop.error(run, state.update)


def step(parts: Parts, represent: Represent, batches: Sequence[Batch], lr: float, update: int) -> list[Result]:
    """Update the weights once, by the gradient averaged over the batches and the ranks.

    Returns:
        The results of each batch; none if the gradient is not finite, on any rank, and the weights stay as they were.
    """
    trained, clip_norm = parts.trained, parts.config.optim.clip_norm
    for group in (group for optimiser in parts.optimisers for group in optimiser.param_groups):
        group["lr"] = lr
    trained.zero_grad(set_to_none=True)
    results = []
    for i, batch in enumerate(batches):
        result = score(parts, represent, batch, seed=parts.draw_seed(update, i))
        (result["loss"] / len(batches)).backward()  # type: ignore[no-untyped-call]
        results.append({name: value.detach() for name, value in result.items()})
        parts.profile.mark("encoder", "backward")
    parts.ranks.average_gradients(trained)
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not norm.isfinite():  # on a GPU, this waits for the gradient, once an update
        return []
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(trained.parameters(), clip_norm, norm)
    for optimiser in parts.optimisers:
        optimiser.step()
    parts.profile.mark("optimiser")
    return results


def score(parts: Parts, represent: Represent, batch: Batch, seed: int) -> Result:
    """Compute the objective of one batch."""
    network, profile = parts.network, parts.profile
    waveforms = batch.waveforms.to(parts.device, non_blocking=True)  # (B, S)
    profile.mark("data")
    num_frames = [num_valid_frames(parts.geometry, waveforms.shape[1], n) for n in batch.num_samples]
    with autocast(parts.device, parts.precision):
        z, c = represent(batch, waveforms, num_frames, seed)  # (B, T, D_z), (B, T, D_c)
        profile.mark_gradient(c, "predictor" if parts.config.loss.name == "cpc" else "criterion")
        result: Result = parts.objective(network, Views(waveforms, z, c, num_frames, batch, seed))
    profile.mark_gradient(z, "autoregressor")
    profile.mark("criterion")
    return result


def validate(parts: Parts, represent: Represent) -> RunningMean:
    """Average the objective over the dev batches, with the same windows and negatives every time."""
    mean, dev = RunningMean(), parts.data.dev
    parts.trained.eval()
    parts.profile.pause()
    with torch.no_grad():
        for i, indices in enumerate(parts.dev_batches):
            mean.add(score(parts, represent, collate([dev[0, index] for index in indices]), seed=i))
    parts.trained.train()
    parts.profile.go_on()
    return mean
