"""Train an agent by A2C, with and without CPC as an auxiliary loss, in a MiniGrid environment.

    python recipes/rl/run.py [--out runs/rl] [--environment MiniGrid-…] [--frames N] [--seeds 0 1 2 3 4]

Both arms have the same agent, an encoder and `cpc.model`'s g_ar, with two linear heads:

    observation x_t → z_t = g_enc(x_t) → c_t = g_ar(z_≤t) → policy π(a | c_t) and value V(c_t)

The arm "A2C + CPC" adds InfoNCE to the loss: W_k c_t has to pick z_{t+k} out of latents of the same rollouts. There is
no replay buffer. Rollouts are cut at the ends of episodes, so neither g_ar nor a prediction crosses one (`agent.py`).

The arms take turns. Each run leaves a file in --out, and finished runs are skipped when the command is repeated. The
script prints a table and writes curves.png and results.json.

Source: van den Oord et al. 2018, section 3.4.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agent import CONTEXT_DIM, Agent, Rollout, loss_of
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from cpc.experiments import errors_in_one_line
from cpc.files import claim, locked, write_json
from cpc.report import markdown_table, save_figure

ARMS = {"a2c": "A2C", "a2c_cpc": "A2C + CPC"}
COLOURS = {"a2c": "tab:blue", "a2c_cpc": "tab:orange"}
NUM_VALUES = 11  # of an object, a colour or a state: MiniGrid has 11 objects, and fewer of the others
MAX_NORM = 0.5  # of the gradient
POINTS = 40  # of a learning curve: each is the mean return of the episodes that end in one part of training
DPI = 100


class Actor:
    """B environments side by side, and the agent's states in them, which only the end of an episode resets."""

    def __init__(self, environment: str, num_environments: int, seed: int) -> None:
        self.environments = [make(environment) for _ in range(num_environments)]
        firsts = [env.reset(seed=10_000 * seed + i)[0] for i, env in enumerate(self.environments)]
        self.x = torch.from_numpy(np.stack([first["image"] for first in firsts])).long()  # (B, …)
        self.begins = torch.ones(num_environments, dtype=torch.bool)
        self.state = torch.zeros(1, num_environments, CONTEXT_DIM)
        self.returns = np.zeros(num_environments)
        self.generator = torch.Generator().manual_seed(seed)
        self.frames = 0
        self.episodes: list[tuple[int, float]] = []  # (frames so far, return) of each that has ended

    @torch.no_grad()
    def roll_out(self, agent: Agent, num_steps: int) -> Rollout:
        """Act for some steps."""
        before, columns, values = self.state, [], []
        for _ in range(num_steps):
            c, state = self._look(agent)
            probabilities = agent.policy(c).softmax(1)
            actions = torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
            values.append(agent.value(c)[:, 0])
            seen = self.x, self.begins, actions
            columns.append((*seen, *self._act(actions)))
            self.state = state * ~self.begins[:, None]
        values.append(agent.value(self._look(agent)[0])[:, 0])
        stacked = [torch.stack(column, 1) for column in zip(*columns, strict=True)]
        return Rollout(*stacked, values=torch.stack(values, 1), state=before)

    def _look(self, agent: Agent) -> tuple[Tensor, Tensor]:
        c, state = agent.g_ar.stream(agent.encode(self.x[:, None]), self.state)
        return c[:, 0], state

    def _act(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step in each environment and return the rewards and whether the episodes ended, (B,) each."""
        seen, rewards, ends = [], [], []
        self.frames += len(self.environments)
        for i, (env, action) in enumerate(zip(self.environments, actions.tolist(), strict=True)):
            x, reward, terminated, truncated, _ = env.step(action)
            self.returns[i] += reward
            if terminated or truncated:
                self.episodes.append((self.frames, float(self.returns[i])))
                self.returns[i] = 0
                x, _ = env.reset()
            seen.append(x["image"])
            rewards.append(float(reward))
            ends.append(terminated or truncated)
        self.x, self.begins = torch.from_numpy(np.stack(seen)).long(), torch.tensor(ends)
        return torch.tensor(rewards), self.begins


def make(environment: str) -> Any:
    """Make a MiniGrid environment; its observations hold an object, a colour and a state for each cell in view."""
    try:
        import gymnasium
        import minigrid
    except ImportError:
        raise ValueError("this recipe needs gymnasium and minigrid: pip install 'cpc-audio[rl]'") from None
    known = sorted(name for name in gymnasium.registry if name.startswith("MiniGrid-"))
    if environment not in known:
        raise ValueError(f"--environment: got {environment!r}, minigrid {minigrid.__version__} has {', '.join(known)}")
    return gymnasium.make(environment, disable_env_checker=True).unwrapped


def train(options: argparse.Namespace, arm: str, seed: int, bar: tqdm) -> dict[str, Any]:
    """Train one agent and return its learning curve."""
    torch.manual_seed(seed)
    begun = time.process_time()
    actor = Actor(options.environment, options.num_environments, seed)
    space, num_actions = actor.environments[0].observation_space["image"], int(actor.environments[0].action_space.n)
    agent = Agent(space.shape, NUM_VALUES, num_actions, options.num_steps)
    optimiser = torch.optim.RMSprop(agent.parameters(), lr=options.learning_rate, alpha=0.99, eps=1e-5)
    weight, accuracies = options.cpc_weight if arm == "a2c_cpc" else 0.0, []
    while actor.frames < options.frames:
        rollout = actor.roll_out(agent, options.rollout_steps)
        loss, contrasted = loss_of(agent, rollout, weight, options.num_negatives, seed=actor.frames)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), MAX_NORM)
        optimiser.step()
        bar.update(rollout.actions.numel())
        if contrasted is not None:
            accuracies.append(contrasted.accuracies.mean().item())
        if actor.episodes:
            bar.set_postfix({"return": f"{np.mean([r for _, r in actor.episodes[-100:]]):.2f}"}, refresh=False)
    return {
        "curve": curve_of(actor.episodes, options.frames),
        "accuracy": float(np.mean(accuracies[-len(accuracies) // 5 :])) if accuracies else None,
        "cpu_seconds": time.process_time() - begun,
    }


def curve_of(episodes: list[tuple[int, float]], frames: int) -> list[float | None]:
    """Average the returns of the episodes that end in each of POINTS equal parts of training; None where none does."""
    parts: list[list[float]] = [[] for _ in range(POINTS)]
    for frame, total in episodes:
        parts[min(POINTS - 1, (frame - 1) * POINTS // frames)].append(total)
    return [float(np.mean(part)) if part else None for part in parts]


def run(options: argparse.Namespace) -> None:
    """Train what is not trained yet, and show the results."""
    make(options.environment)  # an error comes before anything is written
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "seeds", "arms")}
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    with locked(options.out, "experiment"):
        claim(options.out, settings, record="settings.json", what="results")
        total = len(options.seeds) * len(options.arms) * options.frames
        with tqdm(total=total, unit="frame", unit_scale=True, disable=None) as bar:
            for seed, arm in itertools.product(options.seeds, options.arms):
                path = options.out / f"{arm}-{seed}.json"
                bar.set_description(f"seed {seed}, {ARMS[arm]}")
                if not path.exists():
                    write_json(path, train(options, arm, seed, bar))
                else:
                    bar.update(options.frames)
                found[arm].append(json.loads(path.read_text(encoding="utf-8")))
        write_json(options.out / "results.json", {"settings": settings, "seeds": options.seeds, "runs": found})
        curves = {arm: np.array([one["curve"] for one in of], dtype=float) for arm, of in found.items()}
        save_figure(figure_of(curves, options), options.out / "curves.png", dpi=DPI)
    print(table(curves, found))


def interval(values: np.ndarray) -> np.ndarray:
    """Return half the width of the 95 % t interval of the mean over seeds (axis 0); not a number for one seed."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5 if n > 1 else np.full(values.shape[1:], np.nan)


def table(curves: dict[str, np.ndarray], found: dict[str, list[dict[str, Any]]]) -> str:
    """Format the mean return of each arm and their difference by seeds, with 95 % intervals over the seeds."""
    periods = {"whole training": slice(None), "last fifth": slice(-POINTS // 5, None)}
    means = {arm: [np.nanmean(curve[:, part], axis=1) for part in periods.values()] for arm, curve in curves.items()}
    rows = {ARMS[arm]: of for arm, of in means.items()}
    if len(means) == len(ARMS):
        rows["difference"] = [ours - theirs for ours, theirs in zip(means["a2c_cpc"], means["a2c"], strict=True)]
    lines = [["mean return", *periods, "W_k picks the positive, %", "CPU seconds"]]
    for name, of in rows.items():
        returns = [f"{values.mean():.3f}" + (f" ± {interval(values):.3f}" if len(values) > 1 else "") for values in of]
        runs = next((found[arm] for arm in found if ARMS[arm] == name), [])
        accuracies = [100 * one["accuracy"] for one in runs if one["accuracy"] is not None]
        seconds = [one["cpu_seconds"] for one in runs]
        lines.append([name, *returns, *(f"{np.mean(x):.0f}" if x else "–" for x in (accuracies, seconds))])
    return markdown_table(lines)


def figure_of(curves: dict[str, np.ndarray], options: argparse.Namespace) -> Figure:
    """Plot the learning curves: each seed, the mean over the seeds, and its 95 % interval."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    frames = (np.arange(POINTS) + 0.5) * options.frames / POINTS / 1000
    for arm, curve in curves.items():
        mean, half = curve.mean(0), interval(curve)
        axes.plot(frames, curve.T, color=COLOURS[arm], lw=0.5, alpha=0.5)
        axes.plot(frames, mean, color=COLOURS[arm], label=ARMS[arm])
        axes.fill_between(frames, mean - half, mean + half, color=COLOURS[arm], alpha=0.2, lw=0)
    axes.set(xlabel="thousand frames", ylabel="mean return", ylim=(0, 1))  # MiniGrid's returns lie in between
    axes.set_title(f"{options.environment}, {len(options.seeds)} seeds")
    axes.legend(loc="lower right")
    return figure


def main() -> None:
    """Parse the options and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rl"), help="folder for the results")
    parser.add_argument("--environment", default="MiniGrid-LavaGapS5-v0", help="its name in gymnasium")
    parser.add_argument("--frames", type=int, default=120_000, help="steps of all environments, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--cpc-weight", type=float, default=0.1, help="weight of the auxiliary loss")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--num-steps", type=int, default=8, help="K: how many steps ahead CPC predicts")
    parser.add_argument("--num-negatives", type=int, default=16, help="negatives drawn for each prediction")
    parser.add_argument("--num-environments", type=int, default=16, help="environments side by side")
    parser.add_argument("--rollout-steps", type=int, default=16, help="steps between two updates")
    options = parser.parse_args()
    for name in ("frames", "num_steps", "num_negatives", "num_environments"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(options, name)}, expected 1 or more")
    if options.rollout_steps < 2:
        parser.error(f"--rollout-steps: got {options.rollout_steps}, expected 2 or more: CPC predicts inside a rollout")
    with errors_in_one_line("rl"):
        run(options)


if __name__ == "__main__":
    main()
