"""Slow oracles: loops written from the papers' formulas, independently of cpc/."""

import math

import torch


def negatives_of(scheme, speaker, utterance, num_frames, b, t, k):
    """Return the set of (b', t') that a scheme admits as negatives of anchor (b, t) for step k, by its definition."""
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


def negatives_of_rule(rule, columns, num_frames, first_frame, b, t, k):
    """Return the set of (b', t') that a rule over columns and distances admits as negatives, by its definition."""
    found = set()
    for other in range(len(num_frames)):
        if any(columns[name][other] != columns[name][b] for name in rule.same):
            continue
        if any(columns[name][other] == columns[name][b] for name in rule.different):
            continue
        for frame in range(num_frames[other]):
            if (other, frame) == (b, t + k):
                continue  # the positive
            distance = abs((first_frame[other] + frame) - (first_frame[b] + t + k))
            too_far = rule.max_distance and distance > rule.max_distance
            own = columns["utterance"][other] == columns["utterance"][b]
            if own and (distance < rule.min_distance or too_far):
                continue
            found.add((other, frame))
    return found


def infonce(z, predictions, scheme, speaker, utterance, num_frames, negatives_of=negatives_of):
    """Return the loss, top-1 accuracy, win rate and log N of each step, computed one anchor at a time."""
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


# --- losses of embeddings: value, and gradient with respect to the scores s[i][j] (already divided by the temperature)


def info_nce(scores, positive):
    """Average −log softmax at positive[i] over rows; the gradient is p − 1 at positive[i] and p elsewhere."""
    n, total, gradient = len(scores), 0.0, [[0.0] * len(row) for row in scores]
    for i, row in enumerate(scores):
        weights = [math.exp(s - max(row)) for s in row]
        for j, w in enumerate(weights):
            p = w / sum(weights)
            gradient[i][j] = (p - (j == positive[i])) / n
            if j == positive[i]:
                total -= math.log(p) / n
    return total, gradient


def nt_xent(scores, labels):
    """Average −log e^s_ip / (e^s_ip + Σ_{n of other labels} e^s_in) over ordered pairs (i, p) with the same label."""
    n = len(labels)
    pairs = [(i, p) for i in range(n) for p in range(n) if i != p and labels[i] == labels[p]]
    total, gradient = 0.0, [[0.0] * n for _ in range(n)]
    for i, p in pairs:
        candidates = [p] + [j for j in range(n) if labels[j] != labels[i]]
        if len(candidates) == 1:
            continue
        value, (slopes,) = info_nce([[scores[i][j] for j in candidates]], [0])
        total += value / len(pairs)
        for j, slope in zip(candidates, slopes, strict=True):
            gradient[i][j] += slope / len(pairs)
    return total, gradient


def sup_con(scores, labels):
    """Average −log e^s_ip / Σ_{j ≠ i} e^s_ij over the positives p of each anchor i, then over anchors that have any."""
    n = len(labels)
    positives = {i: [p for p in range(n) if p != i and labels[p] == labels[i]] for i in range(n)}
    anchors = [i for i in range(n) if positives[i]] if len(set(labels)) > 1 else []
    total, gradient = 0.0, [[0.0] * n for _ in range(n)]
    for i in anchors:
        others = [j for j in range(n) if j != i]
        for p in positives[i]:
            value, (slopes,) = info_nce([[scores[i][j] for j in others]], [others.index(p)])
            total += value / len(anchors) / len(positives[i])
            for j, slope in zip(others, slopes, strict=True):
                gradient[i][j] += slope / len(anchors) / len(positives[i])
    return total, gradient
