"""Random trees and outputs for the tests of BiLT."""

import torch

from graftkit.methods.bilt import HierarchicalHead, LabelTree


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pick(n: int, g: torch.Generator) -> int:
    return int(torch.randint(0, n, (), generator=g))


def random_parents(seed: int, nodes: int = 14) -> dict[str, str]:
    """A random tree below "r", uneven: child to parent."""
    g = generator(seed)
    names = ["r"]
    parents = {}
    for k in range(nodes):
        parents[f"n{k}"] = names[pick(len(names), g)]
        names.append(f"n{k}")
    return parents


def leaves_of(parents: dict[str, str]) -> list[str]:
    inner = set(parents.values())
    return [node for node in parents if node not in inner]


def even_tree(seed: int = 0, branching: tuple[int, ...] = (3, 2, 2)) -> LabelTree:
    """Three levels of 3, 6 and 12 classes by default, some children left out by the seed."""
    g = generator(seed)
    rows = [()]
    for width in branching:
        rows = [(*row, "".join([row[-1] if row else "c", str(k)])) for row in rows
                for k in range(width if pick(3, g) else max(1, width - 1))]  # fmt: skip
    return LabelTree.from_paths(rows)


SMALL = LabelTree.from_paths(
    [("animal", "pet", "cat"), ("animal", "pet", "dog"), ("animal", "wild", "wolf"),
     ("vehicle", "road", "car"), ("vehicle", "road", "bus")]
)  # fmt: skip


def head_of(
    tree: LabelTree, seed: int = 0, in_features: int = 5, dtype=torch.float64, **options
) -> HierarchicalHead:
    """A head with random weights, W included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = HierarchicalHead(in_features, tree, **{"neck": 4, **options}).to(dtype)
        for cost in head.costs:
            for weight in cost.parameters():
                torch.nn.init.normal_(weight)
    return head


def batch(n: int, classes: int, seed: int = 0, in_features: int = 5, dtype=torch.float64):
    g = generator(seed)
    return torch.randn(n, in_features, generator=g, dtype=dtype), torch.randint(0, classes, (n,), generator=g)
