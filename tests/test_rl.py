"""The recipe rl: rollouts are cut at the ends of episodes, and a small run goes the whole way."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import exit_status, load_script, recipe_script

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "rl" / "run.py"
AGENT = load_script(SCRIPT.with_name("agent.py"))
NUM_ENVIRONMENTS, NUM_STEPS, K = 3, 9, 4
ENDS = [(0, 2), (0, 3), (2, 8)]  # an episode of one step, and one that ends with the rollout; none in the second row


@pytest.fixture
def agent():
    torch.manual_seed(0)
    agent = AGENT.Agent((2, 2, 3), num_values=5, num_actions=4, num_steps=K)
    torch.nn.init.normal_(agent.policy.weight)
    return agent


@pytest.fixture
def rollout():
    """A rollout in which the third environment has just begun an episode, and the others continue one."""
    generator = torch.Generator().manual_seed(1)
    shape = (NUM_ENVIRONMENTS, NUM_STEPS)
    ends = torch.zeros(shape, dtype=torch.bool)
    for place in ENDS:
        ends[place] = True
    first = torch.tensor([[False], [False], [True]])
    return AGENT.Rollout(
        x=torch.randint(5, (*shape, 2, 2, 3), generator=generator),
        begins=torch.cat([first, ends], 1),
        actions=torch.randint(4, shape, generator=generator),
        rewards=torch.rand(shape, generator=generator),
        values=torch.rand(NUM_ENVIRONMENTS, NUM_STEPS + 1, generator=generator),
        state=torch.randn(1, NUM_ENVIRONMENTS, AGENT.CONTEXT_DIM, generator=generator),
    )


def test_contexts_are_those_of_acting_step_by_step(agent, rollout):
    """The state continues from the rollout before, and the end of an episode alone resets it."""
    episodes = AGENT.episodes_of(agent, rollout)
    assert episodes.lengths == [3, 1, 5, 9, 9]
    c = episodes.in_rollout(episodes.c, rollout.actions.shape)
    z, state = agent.g_enc(rollout.x), rollout.state
    for t in range(NUM_STEPS):
        state = state * ~rollout.begins[:, t, None]
        expected, state = agent.g_ar.stream(z[:, t : t + 1], state)
        torch.testing.assert_close(c[:, t], expected[:, 0])


def test_infonce_is_that_of_pairs_inside_one_episode(agent, rollout):
    """A loop over all anchors whose episode lasts until t + k gives the same losses."""
    episodes = AGENT.episodes_of(agent, rollout)
    found = AGENT.contrast(agent, episodes, seed=0, num_negatives=0)
    z, c = agent.g_enc(rollout.x), episodes.in_rollout(episodes.c, rollout.actions.shape)
    for k in range(1, K + 1):
        predictions, losses = agent.W(c)[k - 1], []
        for b in range(NUM_ENVIRONMENTS):
            for t in range(NUM_STEPS - k):
                if not rollout.begins[b, t + 1 : t + k + 1].any():
                    # of all latents of all rollouts
                    scores = (z @ predictions[b, t] / AGENT.LATENT_DIM**0.5).flatten()
                    losses.append(scores.logsumexp(0) - scores[b * NUM_STEPS + t + k])
        assert found.losses[k - 1].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


@pytest.mark.parametrize(("length", "num_steps"), [(1, None), (2, 1), (3, 2)])
def test_a_latent_after_the_end_of_an_episode_is_never_predicted(agent, rollout, length, num_steps):
    """Where all episodes take two steps there are anchors for one step ahead; where they take one, there are none."""
    begins = (torch.arange(NUM_STEPS + 1) % length == 0).expand(NUM_ENVIRONMENTS, -1)
    found = AGENT.contrast(agent, AGENT.episodes_of(agent, rollout._replace(begins=begins)), seed=0)
    assert (found and len(found.losses)) == num_steps


def test_advantages_are_weighted_sums_of_the_errors_until_the_end_of_the_episode(rollout):
    found = AGENT.advantages(rollout)
    for b in range(NUM_ENVIRONMENTS):
        for t in range(NUM_STEPS):
            expected, weight = 0.0, 1.0
            for s in range(t, NUM_STEPS):
                ends = bool(rollout.begins[b, s + 1])
                following = 0.0 if ends else AGENT.DISCOUNT * rollout.values[b, s + 1].item()
                expected += weight * (rollout.rewards[b, s].item() + following - rollout.values[b, s].item())
                weight *= AGENT.DISCOUNT * AGENT.TRACE
                if ends:
                    break
            assert found[b, t].item() == pytest.approx(expected, abs=1e-5)


def test_both_losses_reach_the_encoder_and_cpc_alone_the_predictor(agent, rollout):
    episodes = AGENT.episodes_of(agent, rollout)
    for loss, reaches in [
        (AGENT.a2c_loss(agent, rollout, episodes), False),
        (AGENT.contrast(agent, episodes, seed=0).losses.mean(), True),
    ]:
        encoder, predictor = torch.autograd.grad(
            loss, [agent.embed.weight, agent.W.weight], retain_graph=True, allow_unused=True
        )
        assert encoder.abs().sum() > 0
        assert (predictor is not None) == reaches


def test_the_loss_of_a2c_is_that_of_a_loop_over_all_steps(agent, rollout):
    found = AGENT.a2c_loss(agent, rollout, AGENT.episodes_of(agent, rollout)).item()
    z, state, gains, losses = agent.g_enc(rollout.x), rollout.state, AGENT.advantages(rollout), []
    for t in range(NUM_STEPS):
        c, state = agent.g_ar.stream(z[:, t : t + 1], state * ~rollout.begins[:, t, None])
        for b in range(NUM_ENVIRONMENTS):
            p = agent.policy(c[b, 0]).softmax(0)
            entropy = -(p * p.log()).sum()
            error = gains[b, t] + rollout.values[b, t] - agent.value(c[b, 0])[0]
            policy = -p[rollout.actions[b, t]].log() * gains[b, t]
            losses.append(policy - AGENT.ENTROPY_WEIGHT * entropy + AGENT.VALUE_WEIGHT * error**2)
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


# --- the script


@pytest.fixture
def script():
    with recipe_script(SCRIPT) as script:
        yield script


def test_the_learner_sees_the_states_in_which_the_agent_acted(script):
    """The values of two rollouts, chosen step by step, are those of the cut rollouts: episodes that last go on."""
    pytest.importorskip("minigrid")
    actor = script.Actor("MiniGrid-LavaGapS5-v0", seed=0)
    agent = AGENT.Agent((7, 7, 3), script.NUM_VALUES, num_actions=7, num_steps=2)
    rollouts = [actor.roll_out(agent, 24) for _ in range(2)]
    assert actor.episodes
    inside = rollouts[0].begins[:, 1:-1]
    assert (inside.any(), (~inside).all(1).any()) == (True, True)
    for rollout in rollouts:
        episodes = AGENT.episodes_of(agent, rollout)
        values = agent.value(episodes.in_rollout(episodes.c, rollout.actions.shape))[..., 0]
        torch.testing.assert_close(values, rollout.values[:, :-1])
    assert torch.equal(rollouts[1].begins[:, 0], rollouts[0].begins[:, -1])
    torch.testing.assert_close(rollouts[1].values[:, 0], rollouts[0].values[:, -1])  # the observation that follows


def test_the_interval_is_students_for_the_mean_and_the_difference_is_taken_by_seed(script):
    assert script.interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    ours, theirs = np.full((2, script.POINTS), 0.5), np.full((2, script.POINTS), 0.25)
    ours[1], theirs[1] = 0.9, 0.65
    runs = [{"cpu_seconds": 1.0, "accuracy": None}] * 2
    table = script.table({"a2c": theirs, "a2c_cpc": ours}, {"a2c": runs, "a2c_cpc": runs})
    assert "0.250 ± 0.000" in table.splitlines()[-1]
    assert "0.450 ± 2.541" in table.splitlines()[2]  # 12.706 · 0.4 / √2 / √2


@pytest.fixture
def recipe(script, capsys):
    """Run the script with some options and return what it printed, and its exit status."""
    pytest.importorskip("minigrid")

    def run(*options):
        status = exit_status(*options, command=script.main)
        return capsys.readouterr(), status

    return run


SMALL = ["--frames", "1600", "--seeds", "0", "1"]


def test_a_small_run_makes_a_table_and_a_figure_and_resumes(recipe, tmp_path):
    out = tmp_path / "rl"
    done, status = recipe("--out", str(out), *SMALL)
    assert status == 0, done.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.out.splitlines()]
    assert [row[0] for row in rows[2:]] == ["A2C", "A2C + CPC", "difference"]
    assert (out / "curves.png").stat().st_size < 150_000
    before = {path: path.stat().st_mtime_ns for path in out.glob("a2c*.json")}
    curves = {path.stem: json.loads(path.read_text())["curve"] for path in before}
    assert set(curves) == {"a2c-0", "a2c-1", "a2c_cpc-0", "a2c_cpc-1"}
    assert curves["a2c-0"] != curves["a2c-1"]
    assert curves["a2c-0"] != curves["a2c_cpc-0"]
    (out / "a2c-1.json").unlink()  # as if the command had been killed in the middle
    again, _ = recipe("--out", str(out), *SMALL)
    returns = [
        [line.rsplit("|", 2)[0] for line in of.splitlines()] for of in (done.out, again.out)
    ]  # without the times
    assert returns[0] == returns[1]
    assert [path.stem for path, at in before.items() if path.stat().st_mtime_ns != at] == ["a2c-1"]
    other, status = recipe("--out", str(out), *SMALL, "--cpc-weight", "2")
    assert (status, "cpc_weight was" in other.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--frames", "0"], "--frames: got 0, expected at least 1"),
        (["--rollout-steps", "1"], "--rollout-steps: got 1, expected at least 2"),
        (["--seeds", "-1"], "--seeds: got -1, expected at least 0"),
        (["--environment", "MiniGrid-Nowhere-v0"], "--environment: got 'MiniGrid-Nowhere-v0', minigrid"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, expected, recipe, tmp_path):
    done, status = recipe("--out", str(tmp_path / "rl"), *options)
    assert status == 2
    assert expected in done.err
    assert not (tmp_path / "rl").exists()


def test_without_minigrid_the_command_to_install_it_is_named(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(ValueError, match=r"pip install 'cpc-audio\[rl\]'"):
        script.make("MiniGrid-Empty-5x5-v0")
