"""Train an agent by A2C, with and without CPC as an auxiliary loss, in a MiniGrid environment.

    python recipes/rl/run.py [--out runs/rl] [--environment MiniGrid-…] [--frames N] [--seeds 0 1 2 3 4]

Both arms have the same agent (agent.py), whose policy and value read the contexts of `cpc.model`'s g_ar:

    observation x_t → z_t = g_enc(x_t) → c_t = g_ar(z_≤t) → policy π(a | c_t) and value V(c_t)

The arm "A2C + CPC" adds InfoNCE to the loss: W_k c_t has to pick z_{t+k} out of latents of the same rollouts. There is
no replay buffer. The arms take turns, and each run leaves a file in --out; the same command skips finished runs,
prints the table and draws curves.png.

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
from agent import CONTEXT_DIM, Agent, Rollout, a2c_loss, contrast, episodes_of
from matplotlib.figure import Figure
from scipy import stats
from tqdm import tqdm

from cpc.experiments import at_least, errors_in_one_line
from cpc.files import claim, locked, write_json
from cpc.report import markdown_table, save_figure

ARMS = {"a2c": "A2C", "a2c_cpc": "A2C + CPC"}
NUM_ENVIRONMENTS = 16  # side by side
NUM_VALUES = 11  # MiniGrid has 11 objects, and fewer colours and states
MAX_NORM = 0.5  # the gradient is clipped to it
POINTS = 40  # in a learning curve: each is the mean return of the episodes that end in one part of training


class Actor:
    """Environments side by side, and the agent's states in them, which only the end of an episode resets."""

    def __init__(self, environment: str, seed: int) -> None:
        self.environments = [make(environment) for _ in range(NUM_ENVIRONMENTS)]
        self.seen = [env.reset(seed=10_000 * seed + i)[0]["image"] for i, env in enumerate(self.environments)]
        self.begins = torch.ones(NUM_ENVIRONMENTS, dtype=torch.bool)
        self.state = torch.zeros(1, NUM_ENVIRONMENTS, CONTEXT_DIM)
        self.generator = torch.Generator().manual_seed(seed)
        self.returns, self.frames = np.zeros(NUM_ENVIRONMENTS), 0
        self.episodes: list[tuple[int, float]] = []  # (frames so far, return) of each that has ended

    @torch.no_grad()
    def roll_out(self, agent: Agent, num_steps: int) -> Rollout:
        """Act for some steps, and look at what follows them."""
        before, steps = self.state, []
        for t in range(num_steps + 1):
            x, begins = torch.from_numpy(np.stack(self.seen)).long(), self.begins
            c, state = agent.g_ar.stream(agent.g_enc(x[:, None]), self.state * ~begins[:, None])  # c: (B, 1, D_c)
            actions = torch.multinomial(agent.policy(c[:, 0]).softmax(1), 1, generator=self.generator)[:, 0]
            rewards = torch.zeros(NUM_ENVIRONMENTS)
            if t < num_steps:
                self.state, rewards = state, self.step(actions.tolist())
            steps.append((x, begins, actions, rewards, agent.value(c)[:, 0, 0]))
        x, begins, actions, rewards, values = (torch.stack(column, 1) for column in zip(*steps, strict=True))
        return Rollout(x[:, :-1], begins, actions[:, :-1], rewards[:, :-1], values, before)

    def step(self, actions: list[int]) -> torch.Tensor:
        """Take a step in each environment, begin new episodes where one ends, and return the rewards (B,)."""
        self.frames += NUM_ENVIRONMENTS
        rewards, self.begins = torch.zeros(NUM_ENVIRONMENTS), torch.zeros(NUM_ENVIRONMENTS, dtype=torch.bool)
        for i, (env, action) in enumerate(zip(self.environments, actions, strict=True)):
            x, rewards[i], terminated, truncated, _ = env.step(action)
            self.returns[i] += float(rewards[i])
            if terminated or truncated:
                self.episodes.append((self.frames, self.returns[i]))
                self.returns[i], self.begins[i] = 0, True
                x, _ = env.reset()
            self.seen[i] = x["image"]
        return rewards


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
    begun, actor, accuracies = time.process_time(), Actor(options.environment, seed), []
    env = actor.environments[0]
    agent = Agent(env.observation_space["image"].shape, NUM_VALUES, int(env.action_space.n), options.num_steps)
    optimiser = torch.optim.RMSprop(agent.parameters(), lr=options.learning_rate, alpha=0.99, eps=1e-5)
    while actor.frames < options.frames:
        rollout = actor.roll_out(agent, options.rollout_steps)
        episodes = episodes_of(agent, rollout)
        loss = a2c_loss(agent, rollout, episodes)
        if arm == "a2c_cpc" and (contrasted := contrast(agent, episodes, seed=actor.frames)):
            loss = loss + options.cpc_weight * contrasted.losses.mean()
            accuracies.append(contrasted.accuracies.mean().item())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), MAX_NORM)
        optimiser.step()
        bar.update(rollout.actions.numel())
        bar.set_postfix(
            {"return": f"{np.mean([total for _, total in actor.episodes[-100:]] or [0]):.2f}"}, refresh=False
        )
    parts: list[list[float]] = [[] for _ in range(POINTS)]
    for frame, total in actor.episodes:
        parts[min(POINTS - 1, (frame - 1) * POINTS // options.frames)].append(total)
    return {
        "curve": [float(np.mean(part)) if part else None for part in parts],
        "accuracy": float(np.mean(accuracies[-len(accuracies) // 5 :])) if accuracies else None,
        "cpu_seconds": time.process_time() - begun,
    }


def run(options: argparse.Namespace) -> None:
    """Train what is not trained yet, and show the results."""
    make(options.environment)  # an error comes before anything is written
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "seeds", "arms")}
    runs = list(dict.fromkeys(itertools.product(options.seeds, options.arms)))  # each once
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
    with locked(options.out, "experiment"):
        claim(options.out, settings, record="settings.json", what="results")
        with tqdm(total=len(runs) * options.frames, unit="frame", unit_scale=True, disable=None) as bar:
            for done, (seed, arm) in enumerate(runs):
                path, bar.n = options.out / f"{arm}-{seed}.json", done * options.frames
                bar.set_description(f"seed {seed}, {ARMS[arm]}")
                if not path.exists():
                    write_json(path, train(options, arm, seed, bar))
                found[arm].append(json.loads(path.read_text(encoding="utf-8")))
        curves = {arm: np.array([one["curve"] for one in of], dtype=float) for arm, of in found.items()}
        save_figure(figure_of(curves, options), options.out / "curves.png", dpi=100)
    print(table(curves, found))


def interval(values: np.ndarray) -> np.ndarray:
    """Return half the width of the 95 % t interval of the mean over seeds (axis 0); not a number for one seed."""
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5 if n > 1 else np.full(values.shape[1:], np.nan)


def table(curves: dict[str, np.ndarray], found: dict[str, list[dict[str, Any]]]) -> str:
    """Format the mean return of each arm and their difference by seeds, with 95 % intervals over the seeds."""
    parts = {"whole training": slice(None), "last fifth": slice(-POINTS // 5, None)}
    lines = [["mean return", *parts, "W_k picks the positive, %", "CPU seconds"]]
    means = {arm: [np.nanmean(curve[:, part], axis=1) for part in parts.values()] for arm, curve in curves.items()}
    if len(means) == len(ARMS):
        means["difference"] = [ours - theirs for ours, theirs in zip(means["a2c_cpc"], means["a2c"], strict=True)]
    for arm, of in means.items():
        returns = [f"{x.mean():.3f}" + (f" ± {interval(x):.3f}" if len(x) > 1 else "") for x in of]
        seconds = [one["cpu_seconds"] for one in found.get(arm, [])]
        accuracies = [100 * one["accuracy"] for one in found.get(arm, []) if one["accuracy"] is not None]
        lines.append(
            [ARMS.get(arm, arm), *returns, *(f"{np.mean(x):.0f}" if x else "–" for x in (accuracies, seconds))]
        )
    return markdown_table(lines)


def figure_of(curves: dict[str, np.ndarray], options: argparse.Namespace) -> Figure:
    """Plot the learning curves: each seed, the mean over the seeds, and its 95 % interval."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    frames = (np.arange(POINTS) + 0.5) * options.frames / POINTS / 1000
    for colour, (arm, curve) in zip(("tab:blue", "tab:orange"), curves.items(), strict=False):
        mean, half = curve.mean(0), interval(curve)
        axes.plot(frames, curve.T, color=colour, lw=0.5, alpha=0.5)
        axes.plot(frames, mean, color=colour, label=ARMS[arm])
        axes.fill_between(frames, mean - half, mean + half, color=colour, alpha=0.2, lw=0)
    axes.set(xlabel="thousand frames", ylabel="mean return")
    axes.set_title(f"{options.environment}, {len(curve)} seeds")
    axes.legend(loc="lower right")
    return figure


def main() -> None:
    """Parse the options and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rl"), help="folder for the results")
    parser.add_argument("--environment", default="MiniGrid-LavaGapS5-v0", help="its name in gymnasium")
    parser.add_argument("--frames", type=at_least(1), default=300_000, help="steps of all environments, for each run")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--cpc-weight", type=float, default=0.1, help="weight of the auxiliary loss")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--num-steps", type=at_least(1), default=8, help="K: how many steps ahead CPC predicts")
    parser.add_argument("--rollout-steps", type=at_least(2), default=16, help="steps between two updates")
    options = parser.parse_args()
    with errors_in_one_line("rl"):
        run(options)


if __name__ == "__main__":
    main()
