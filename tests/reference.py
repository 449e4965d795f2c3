"""Slow oracles, written from the paper's formulas with loops and independently of cpc/."""

import math

import torch


def negatives_of(scheme, speaker, utterance, num_frames, b, t, k):
    """The set of (b', t') that may be negatives of anchor (b, t) for step k, by the definition of each scheme."""
    found = set()
    for other in range(len(speaker)):
        for frame in range(num_frames[other]):
            if (other, frame) == (b, t + k):
                continue  # the positive
            same_speaker = speaker[other] == speaker[b]
            same_sequence = utterance[other] == utterance[b]
            if scheme == "mixed_speaker":
                eligible = True
            elif scheme == "same_speaker":
                eligible = same_speaker
            elif scheme == "mixed_speaker_excl":
                eligible = not same_sequence
            elif scheme == "same_speaker_excl":
                eligible = same_speaker and not same_sequence
            elif scheme == "current_sequence":
                eligible = same_sequence
            else:
                raise AssertionError(scheme)
            if eligible:
                found.add((other, frame))
    return found


def infonce(z, predictions, scheme, speaker, utterance, num_frames):
    """Losses, top-1 accuracies, win rates and log N for each step, one anchor after the other."""
    losses, accuracies, win_rates, log_ns = [], [], [], []
    for k in range(1, len(predictions) + 1):
        loss, hits, wins, log_n, count = 0.0, 0, 0.0, 0.0, 0
        for b in range(len(z)):
            for t in range(num_frames[b] - k):
                prediction = predictions[k - 1, b, t]
                positive = torch.dot(prediction, z[b, t + k])
                others = sorted(negatives_of(scheme, speaker, utterance, num_frames, b, t, k))
                negative = torch.stack([torch.dot(prediction, z[i, j]) for i, j in others])
                loss = loss + torch.logsumexp(torch.cat([positive[None], negative]), 0) - positive
                hits += int(positive > negative.max())
                wins += float((positive > negative).float().mean())
                log_n += math.log(1 + len(others))
                count += 1
        losses.append(loss / count)
        accuracies.append(hits / count)
        win_rates.append(wins / count)
        log_ns.append(log_n / count)
    return torch.stack(losses), torch.tensor(accuracies), torch.tensor(win_rates), torch.tensor(log_ns)
