"""Leaving layers the slow way: one canvas, all layers for all places, and states put back."""

import math

import torch


def climbed(model, ids, canvas, leave, *, detach=False):
    """Run every layer for every place of one canvas; those that left keep their states.

    Args:
        model: To run, without padding or masks.
        ids: One source, [S].
        canvas: [N].
        leave: Called with an exit, the states there and below it; says which places leave.
        detach: Whether later layers see the states of those that left without gradient.
    """
    decoder, depth = model.model.decoder, model.config.decoder_layers
    source = model.model.encoder(input_ids=ids[None]).last_hidden_state
    begun = model.model.shared(canvas[None]) + decoder.embed_positions(canvas[None])
    seen = own = decoder.layernorm_embedding(begun)
    live, exits = torch.ones_like(canvas, dtype=torch.bool), torch.full_like(canvas, depth)
    for number, layer in enumerate(decoder.layers, start=1):
        before = seen
        new = layer(seen, None, source, encoder_attention_mask=None, use_cache=False)
        own = torch.where(live[:, None], new, own)
        if number == depth:
            break
        gone = live & leave(number, own[0], before[0])
        exits[gone] = number
        live = live & ~gone
        seen = own
        if model.config.soft_exit:
            said = model.model.shared(scored(model, own).argmax(-1))
            joined = model.concat_head(torch.cat([own, said], dim=-1))
            seen = torch.where(live[:, None], joined, own)
        seen = torch.where(live[:, None], seen, seen.detach() if detach else seen)
    return own[0], exits


def scored(model, states):
    return states @ model.lm_head.weight.T + model.final_logits_bias[0]


class Rule:
    """Each rule as its paper writes it."""

    def __init__(self, model, name, threshold, asked):
        self.model, self.name, self.threshold, self.asked = model, name, threshold, asked
        self.said = []

    def __call__(self, exit, new, before):
        scores = scored(self.model, new)
        shares = scores.softmax(-1)
        self.said.append(scores.argmax(-1))
        if exit not in self.asked:
            return torch.zeros(len(new), dtype=torch.bool)
        if self.name == "patience":
            last = self.said[-int(self.threshold) :]
            same = torch.stack([each == last[-1] for each in last]).all(0)
            return same & (len(last) >= self.threshold)
        best, second = shares.sort(descending=True).values[:, :2].T
        if self.name == "entropy":
            entropy = -(shares * shares.log()).sum(-1)
            confidence = 1 - entropy / math.log(shares.shape[-1])
        elif self.name == "top_probability":
            confidence = best
        elif self.name == "top_gap":
            confidence = best - second
        elif self.name == "saturation":
            confidence = (new * before).sum(-1) / new.norm(dim=-1) / before.norm(dim=-1)
        else:
            gate = self.model.gates[str(exit)]
            scaled = new / new.square().mean(-1, keepdim=True).sqrt()
            confidence = torch.sigmoid((scaled * gate.linear.weight).sum(-1) + gate.linear.bias)
        return confidence > self.threshold
