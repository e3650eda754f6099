"""The family once more, on one flat float64 vector: what the members' steps are compared with.

Written from the rules (specification of the family), with nothing of samlib's parts.
"""

import math

import torch
import torch.nn.functional as F
from conftest import flat, selected
from torch.func import functional_call

MOMENTUM, DECAY = 0.9, 5e-4


class Dense:
    """A network as a function of a flat vector, SGD on it, and SAM's ball."""

    def __init__(self, net, batches, mask, rho, elementwise, lr=0.1):
        self.net, self.batches, self.on = net, batches, selected(mask)
        self.rho, self.elementwise, self.lr = rho, elementwise, lr
        self.names = [n for n, _ in net.named_parameters()]
        self.shapes = [p.shape for p in net.parameters()]
        self.w = flat(net.parameters()).clone()
        self.velocity = torch.zeros_like(self.w)
        self.entries = [(e.name, e.index, e.parameter.shape) for e in mask.entries]

    def logits(self, w, t):
        parts = w.split([s.numel() for s in self.shapes])
        tensors = {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}
        return functional_call(self.net, tensors, (self.batches[t][0],))

    def losses(self, w, t):
        return F.cross_entropy(self.logits(w, t), self.batches[t][1], reduction="none")

    def g(self, w, t, loss=None):
        w = w.clone().requires_grad_()
        value = self.losses(w, t).mean() if loss is None else loss(self.logits(w, t))
        return torch.autograd.grad(value, w)[0]

    def T(self, w):
        return w.abs() if self.elementwise else torch.ones_like(w)

    def B(self, d, w=None):
        w = self.w if w is None else w
        T = self.T(w)
        norm = (T * d)[self.on].norm()
        return torch.where(self.on, self.rho * T**2 * d / norm, 0) if norm else torch.zeros_like(d)

    def free(self, d):
        return torch.where(self.on, self.rho * self.T(self.w) ** 2 * d, 0)

    def base(self, u, w=None):
        w = self.w if w is None else w
        self.velocity = MOMENTUM * self.velocity + u + DECAY * w
        return w - self.lr * self.velocity

    def step(self, eps, t):
        self.w = self.base(self.g(self.w + eps, t))


def sam(r, steps):
    for t in range(steps):
        r.step(r.B(r.g(r.w, t)), t)


def usam(r, steps):
    for t in range(steps):
        r.step(r.free(r.g(r.w, t)), t)


def vasso(r, steps, theta=0.9):
    a = r.g(r.w, 0)
    for t in range(steps):
        a = (1 - theta) * a + theta * r.g(r.w, t)
        r.step(r.B(a), t)


def fsam(r, steps, sigma=1.0, lam=0.6):
    m = torch.zeros_like(r.w)
    for t in range(steps):
        g = r.g(r.w, t)
        d = g - sigma * m
        m = g if t == 0 else lam * m + (1 - lam) * g
        r.step(r.B(d), t)


def obf(r, steps, lam=1e-3, gamma=1.0, probabilities="sigmoid"):
    for t in range(steps):
        labels = r.batches[t][1]

        def forget(logits, labels=labels):
            total = 0.0
            for x, y in zip(logits, labels.tolist(), strict=True):
                p = [1 / (1 + math.exp(-v)) for v in x.tolist()]
                if probabilities == "softmax":
                    p = [math.exp(v) / sum(map(math.exp, x.tolist())) for v in x.tolist()]
                a = gamma * max(0.0, (1 - lam / p[y]) / (1 - lam))
                for c, v in enumerate(x):
                    total = total + v * (1 / len(p) - a * p[c] - (1 - a) * (c == y))
            return total / len(labels)

        r.step(r.B(r.g(r.w, t, forget)), t)


def async_sam(r, steps):
    last = torch.zeros_like(r.w)
    for t in range(steps):
        eps, last = r.B(last), r.g(r.w, t)
        r.step(eps, t)


def on_mask(r, draw):
    """A flat vector with what is drawn for each entry of the mask."""
    out = {
        n: torch.zeros(s.numel(), dtype=r.w.dtype) for n, s in zip(r.names, r.shapes, strict=True)
    }
    for name, index, shape in r.entries:
        if index is None:
            out[name] = draw(shape).flatten()
        else:
            out[name][index] = draw((len(index),))
    return torch.cat(list(out.values()))


def normal(r):
    """What a part with seed 0 draws first."""
    generator = torch.Generator().manual_seed(0)
    return on_mask(r, lambda shape: torch.randn(shape, generator=generator, dtype=r.w.dtype))


def turned(r, t, v):
    """v after five products with P H P; the whole Hessian takes a minute."""
    for _ in range(5):
        v = torch.autograd.functional.vhp(lambda w: r.losses(w, t).mean(), r.w, v / v.norm())[1]
        v = v * r.on
    return v / v.norm()


def eigen_sam(r, steps, alpha=0.2, every=100):
    v = normal(r)
    for t in range(steps):
        v = turned(r, t, v) if t % every == 0 else v
        g = r.g(r.w, t) * r.on
        unit = g / g.norm()
        cos = unit @ v
        r.step(r.free(unit + alpha * cos.sign() * (v - cos * unit)), t)


def random_sam(r, steps):
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        draw = lambda shape: torch.randn(shape, generator=generator, dtype=r.w.dtype)  # noqa: E731
        r.step(r.B(on_mask(r, draw)), t)


def msam(r, steps, sign=-1):
    for t in range(steps):
        r.step(r.B(sign * r.velocity), t)


def msam_up(r, steps):
    msam(r, steps, sign=1)


def last(r, steps):
    d = torch.zeros_like(r.w)
    for t in range(steps):
        d = r.g(r.w + r.B(d), t)
        r.w = r.base(d)


def lesam(r, steps, sign=-1, every=2):
    anchor, way = r.w, torch.zeros_like(r.w)
    for t in range(steps):
        if t and t % every == 0:
            way, anchor = r.w - anchor, r.w
        r.step(r.B(sign * way), t)


def drift_on(r, steps):
    lesam(r, steps, sign=1)


def following(r, steps, power, halved):
    """Steps with rho after the learning rate, which is halved before one of them."""
    rho, largest = r.rho, r.lr
    for t in range(steps):
        r.lr = largest / 2 if halved is not None and t >= halved else largest
        r.rho = rho * (r.lr / largest) ** power
        yield t


def gsam(r, steps, alpha=0.4, halved=None):
    for t in following(r, steps, 1, halved):
        g = r.g(r.w, t)
        there = r.g(r.w + r.B(g), t)
        r.w = r.base(there - alpha * (g - (g @ there) / (there @ there) * there))


def looksam(r, steps, alpha=0.7, k=10, masked=False):
    on = r.on if masked else torch.ones_like(r.on)
    for t in range(steps):
        g = r.g(r.w, t)
        if t % k == 0:
            u = r.g(r.w + r.B(g), t)
            a, b = u * on, g * on
            v = a - (a @ b) / (b @ b) * b
            v = v / v.norm()
        else:
            u = g + alpha * (g * on).norm() * v
        r.w = r.base(u)


def looksam_mask(r, steps, k=10):
    looksam(r, steps, k=k, masked=True)


def sampa(r, steps, lam=0.2):
    """In the authors' order: the perturbed gradient is that of the batch before, taken now."""
    previewed = None
    for t in range(steps):
        if previewed is None:
            one = other = r.g(r.w, t)
        else:
            one = r.g(r.w + r.B(previewed), t - 1)
            y = r.w - r.lr * (previewed + DECAY * r.w + MOMENTUM * r.velocity)
            other = r.g(y, t)
        r.w = r.base((1 - lam) * one + lam * other)
        previewed = other


def esam(r, steps, gamma=0.5):
    for t in range(steps):
        before = r.losses(r.w, t)
        w = (r.w + r.B(r.g(r.w, t))).requires_grad_()
        after = r.losses(w, t)
        rise = (after - before).tolist()
        chosen = sorted(range(len(rise)), key=lambda i: -rise[i])[: int(gamma * len(rise))]
        r.w = r.base(torch.autograd.grad(after[chosen].mean(), w)[0])


def ss_sam(r, steps, p=0.5):
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        g = r.g(r.w, t)
        perturb = torch.rand((), generator=generator).item() < p
        r.w = r.base(r.g(r.w + r.B(g), t) if perturb else g)


def every_k(r, steps, k=5):
    for t in range(steps):
        g = r.g(r.w, t)
        r.w = r.base(r.g(r.w + r.B(g), t) if t % k == 0 else g)


def ae_sam(r, steps, delta=0.9, total=8):
    mean = variance = 0.0
    for t in range(steps):
        g = r.g(r.w, t)
        n = g[r.on].square().sum().item()
        mean = delta * mean + (1 - delta) * n
        variance = delta * variance + (1 - delta) * (n - mean) ** 2
        c = t / total * -1 + (1 - t / total) * 1
        r.w = r.base(r.g(r.w + r.B(g), t) if n >= mean + c * math.sqrt(variance) else g)


def downhill(r, steps):
    for t in range(steps):
        r.step(-r.B(r.g(r.w, t)), t)


def felt_by_mask(r, steps, on=True):
    for t in range(steps):
        g = r.g(r.w, t)
        there = r.g(r.w + r.B(g), t)
        r.w = r.base(torch.where(r.on == on, there, g))


def felt_by_others(r, steps):
    felt_by_mask(r, steps, on=False)


def penalty(r, steps):
    """The gradient of L + rho ||T P g|| by differentiating it as it stands, T a constant."""
    for t in range(steps):
        w, T = r.w.clone().requires_grad_(), r.T(r.w)
        loss = r.losses(w, t).mean()
        g = torch.autograd.grad(loss, w, create_graph=True)[0]
        total = loss + r.rho * (T * g)[r.on].norm()
        r.w = r.base(torch.autograd.grad(total, w)[0])


def rho_lr(r, steps, power=1.0, halved=None):
    for t in following(r, steps, power, halved):
        r.step(r.B(r.g(r.w, t)), t)


def rho_root_lr(r, steps, halved=None):
    rho_lr(r, steps, 0.5, halved)


def lookbehind(r, steps, k=2, alpha=0.5):
    for t in range(steps):
        slow = high = fast = r.w
        for _ in range(k):
            high = high + r.B(r.g(high, t), high)
            fast = r.base(r.g(high, t), fast)
        r.w = slow + alpha * (fast - slow)


def ire(r, steps, kappa=1.0, rank=0.1, every=10):
    generator = torch.Generator().manual_seed(0)
    for t in range(steps):
        if t % every == 0:  # the Fisher is that of the first batch, always
            p = r.logits(r.w, 0).float().softmax(1)
            labels = p.multinomial(1, generator=generator).flatten()
            fisher = r.g(r.w, 0, lambda logits, y=labels: F.cross_entropy(logits, y)) ** 2
            flat = fisher <= fisher.sort(descending=True).values[int(rank * len(fisher)) - 1]
        before = r.w
        r.step(r.B(r.g(r.w, t)), t)
        r.w = r.w + kappa * flat * (r.w - before)


MEMBERS = {
    f.__name__: f
    for f in (
        *(sam, usam, vasso, fsam, obf, async_sam, eigen_sam, random_sam, msam, msam_up, last),
        *(lesam, drift_on, gsam, looksam, looksam_mask, sampa, esam, ss_sam, every_k, ae_sam),
        *(downhill, felt_by_mask, felt_by_others, penalty, rho_lr, rho_root_lr, lookbehind, ire),
    )
}
