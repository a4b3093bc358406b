"""One line a task for the top of RESULTS.md: ours beside the best rival, interval, verdict, cost."""

from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats


@dataclass(frozen=True)
class Headline:
    """What a renderer's ``headlines(records)`` gives: figures by seed, higher is better; costs as text."""

    task: str
    metric: str
    ours: dict[int, float]
    rivals: dict[str, dict[int, float]]
    time: str = "-"
    memory: str = "-"
    digits: int = 3

    @property
    def rival(self) -> str:
        """The rival with the best mean: the hardest one, also where it wins."""
        return max(self.rivals, key=lambda name: mean(self.rivals[name].values()))

    def differences(self) -> list[float]:
        """Ours less the rival, by seed; a rival with one run (nothing random in it) faces every seed."""
        theirs = self.rivals[self.rival]
        if len(theirs) == 1:
            (value,) = theirs.values()
            return [ours - value for ours in self.ours.values()]
        return [self.ours[seed] - theirs[seed] for seed in sorted(self.ours.keys() & theirs.keys())]

    def interval(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean difference; None below three seeds."""
        d = self.differences()
        if len(d) < 3:
            return None
        half = float(stats.t.ppf(0.975, len(d) - 1)) * stdev(d) / len(d) ** 0.5
        return mean(d) - half, mean(d) + half

    def verdict(self) -> str:
        """In words, and from the interval alone."""
        interval = self.interval()
        if interval is None:
            return "too few seeds to say"
        if interval[0] > 0:
            return "ahead"
        return "**behind**" if interval[1] < 0 else "no clear difference"

    def sentence(self) -> str:
        """The figure, its rival and the verdict, for people in a hurry."""
        own, theirs = mean(self.ours.values()), mean(self.rivals[self.rival].values())
        # Costs come negated, so that higher is better; a reader wants them as they are.
        sign, name = (-1, self.metric[1:]) if self.metric.startswith("-") else (1, self.metric)
        n, lower = self.digits, ", lower is better" if sign < 0 else ""
        figures = f"{name} {sign * own:.{n}f} against {sign * theirs:.{n}f} ({self.rival}{lower})"
        return f"{self.task}: {figures}: {self.verdict()}{self.remark()}"

    def remark(self) -> str:
        """A rival may well be beaten by a figure that is no good."""
        ranks = "AUROC" in self.metric or "ROC AUC" in self.metric
        if not ranks or mean(self.ours.values()) >= 0.5:
            return ""
        return f", {'and' if 'behind' in self.verdict() else 'but'} worse than chance"

    def cells(self) -> list[str]:
        """The row of the summary."""
        d, n, interval = self.differences(), self.digits, self.interval()
        between = f" [{interval[0]:+.{n}f}, {interval[1]:+.{n}f}]" if interval else ""
        return [
            self.task,
            self.metric,
            f"{mean(self.ours.values()):.{n}f}",
            f"{self.rival} {mean(self.rivals[self.rival].values()):.{n}f}",
            f"{mean(d):+.{n}f}{between}, n={len(d)}" if d else "-",
            self.verdict() + self.remark(),
            self.time,
            self.memory,
        ]


HEADER = ["method", "task", "figure", "ours", "best rival", "difference [95 %]", "verdict", "time", "memory"]
