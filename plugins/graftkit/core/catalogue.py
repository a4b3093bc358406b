"""The ten methods, their hosts and papers as data: what the command line, README and tests agree on.

>>> METHODS["rcpmod"].hosts
('sklearn', 'pyod')
"""

from dataclasses import dataclass

__all__ = ["HOSTS", "Host", "METHODS", "Method", "Paper", "TESTED", "bibtex"]


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Parameters
    ----------
    key : str
        The BibTeX key.
    authors : tuple of str
        Names as the paper's public record gives them, some without initials.
    title : str
        Title.
    venue : str
        Conference or journal, abbreviated.
    year : int
        Year of publication.
    arxiv : str
        Identifier on arXiv.
    doi : str, default=""
        Identifier of the published version where it is known.
    journal : bool, default=False
        Whether `venue` is a journal.
    """

    key: str
    authors: tuple[str, ...]
    title: str
    venue: str
    year: int
    arxiv: str
    doi: str = ""
    journal: bool = False


@dataclass(frozen=True)
class Host:
    """A library that graftkit plugs into.

    Parameters
    ----------
    name : str
        What people call it.
    distribution : str
        The package that is looked up.
    extra : str, default=""
        The extra that installs it; empty for a core dependency.
    """

    name: str
    distribution: str
    extra: str = ""


@dataclass(frozen=True)
class Method:
    """One method.

    Parameters
    ----------
    title : str
        Its name in the literature.
    purpose : str
        What it is for, in a line.
    hosts : tuple of str
        Adapters, ``graftkit.<host>``, that offer it.
    papers : tuple of Paper
        What to cite.
    """

    title: str
    purpose: str
    hosts: tuple[str, ...]
    papers: tuple[Paper, ...]


HOSTS = {
    "torch": Host("PyTorch", "torch"),
    "sklearn": Host("scikit-learn", "scikit-learn"),
    "timm": Host("timm", "timm", "timm"),
    "pyg": Host("PyTorch Geometric", "torch-geometric", "pyg"),
    "mmseg": Host("mmsegmentation", "onedl-mmsegmentation", "mmseg"),
    "diffusers": Host("diffusers", "diffusers", "diffusers"),
    "art": Host("Adversarial Robustness Toolbox", "adversarial-robustness-toolbox", "art"),
    "pyod": Host("PyOD", "pyod", "pyod"),
}

# The versions that the suite passed with: those of constraints.txt, as a test checks.
TESTED = {
    "torch": "2.14.1",
    "numpy": "2.4.6",
    "scipy": "1.17.1",
    "scikit-learn": "1.9.1",
    "tqdm": "4.70.1",
    "timm": "1.0.31",
    "torch-geometric": "2.8.1",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmsegmentation": "1.4.2",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    "peft": "0.21.2",
    "adversarial-robustness-toolbox": "1.20.1",
    "pyod": "3.6.7",
    "lightning": "2.6.6",
    "dask": "2026.8.0",
    "distributed": "2026.8.0",
}

METHODS = {
    "rcpmod": Method(
        "RCPMOD", "outliers among rows with several views, some missing", ("sklearn", "pyod"),
        (Paper(
            "wang2024rcpmod", ("Y. Wang", "Q. Xu", "Y. Jiang", "S. Dai", "Q. Huang"),
            "Regularized Contrastive Partial Multi-view Outlier Detection",
            "ACM MM", 2024, "2408.07819", "10.1145/3664647.3681125",
        ),),
    ),
    "sse_sam": Method(
        "SSE-SAM", "long-tailed classification: a stage-wise sharpness-aware optimizer",
        ("torch", "timm", "mmseg"),
        (Paper(
            "lyu2025ssesam", ("X. Lyu", "Q. Xu", "Z. Yang", "S. Lyu", "Q. Huang"),
            "SSE-SAM: Balancing Head and Tail Classes Gradually through Stage-Wise SAM",
            "AAAI", 2025, "2412.13715",
        ),),
    ),
    "bilt": Method(
        "BiLT with AIGDL", "fine-grained classification over a tree of labels", ("timm", "torch"),
        (Paper(
            "lu2025bilt", ("Lu", "Xu", "Bao", "Yang", "Huang"),
            "Bidirectional Logits Tree: Pursuing Granularity Reconcilement in Fine-Grained Classification",
            "AAAI", 2025, "2412.12782",
        ),),
    ),
    "edge": Method(
        "EDGE", "unknown inputs in multi-label classification", ("timm", "torch", "sklearn"),
        (Paper(
            "sun2025edge", ("Y. Sun", "Q. Xu", "Z. Wang", "Z. Yang", "J. He"),
            "EDGE: Unknown-aware Multi-label Learning by Energy Distribution Gap Expansion",
            "AAAI", 2025, "2412.07499", "10.1609/aaai.v39i12.33375",
        ),),
    ),
    "aucseg": Method(
        "AUCSeg", "long-tailed semantic segmentation: a pixel AUC loss and a bank of tail classes",
        ("mmseg", "torch"),
        (Paper(
            "han2024aucseg", ("Han", "Xu", "Yang", "Bao", "Wen", "Jiang", "Huang"),
            "AUCSeg: AUC-oriented Pixel-level Long-tail Semantic Segmentation",
            "NeurIPS", 2024, "2409.20398",
        ),),
    ),
    "diffusion_feature": Method(
        "generic diffusion features", "dense features from a frozen diffusion model",
        ("diffusers", "sklearn", "mmseg"),
        (Paper(
            "meng2024activations", ("Meng", "Xu", "Wang", "Cao", "Huang"),
            "Not All Diffusion Model Activations Have Been Evaluated as Discriminative Features",
            "NeurIPS", 2024, "2410.03558",
        ),),
    ),
    "content_shift": Method(
        "GATE", "diffusion features that stay with the input's content", ("diffusers",),
        (Paper(
            "meng2024gate", ("Meng", "Xu", "Wang", "Yang", "Cao", "Huang"),
            "Suppress Content Shift: Better Diffusion Features via Off-the-Shelf Generation Techniques",
            "NeurIPS", 2024, "2410.06719",
        ),),
    ),
    "dpcml": Method(
        "DPCML", "recommendation for users with minority interests", ("sklearn",),
        (
            Paper(
                "bao2022minority", ("Bao", "Xu", "Yang", "He", "Cao", "Huang"),
                "The Minority Matters: A Diversity-Promoting Collaborative Metric Learning Algorithm",
                "NeurIPS", 2022, "2209.15292",
            ),
            Paper(
                "bao2024improved", ("Bao", "Xu", "Yang", "He", "Cao", "Huang"),
                "Improved Diversity-Promoting Collaborative Metric Learning for Recommendation",
                "TPAMI", 2024, "2409.01012", journal=True,
            ),
        ),
    ),
    "hgoe": Method(
        "HGOE", "unknown graphs: outlier exposure made from inside and outside", ("pyg",),
        (Paper(
            "he2024hgoe", ("J. He", "Q. Xu", "Y. Jiang", "Z. Wang", "Y. Sun", "Q. Huang"),
            "HGOE: Hybrid External and Internal Graph Outlier Exposure for Graph Out-of-Distribution "
            "Detection",
            "ACM MM", 2024, "2407.21742", "10.1145/3664647.3681118",
        ),),
    ),
    "qedg": Method(
        "QEDG", "how easily a model of your own could be copied", ("torch", "art"),
        (Paper(
            "pei2025qedg", ("Pei", "Lyu", "Ma", "Yang", "Xu", "Sun"),
            "Exploring Query Efficient Data Generation towards Data-free Model Stealing in Hard Label "
            "Setting",
            "AAAI", 2025, "2412.15276",
        ),),
    ),
}  # fmt: skip


def bibtex(paper: Paper) -> str:
    """Write a paper as a BibTeX entry.

    Parameters
    ----------
    paper : Paper
        What to cite.

    Returns
    -------
    str
        The entry, without a final line break.

    Examples
    --------
    >>> print(bibtex(Paper("k", ("A. Author",), "A title", "ICML", 2024, "2401.00001")))
    @inproceedings{k,
      author = {A. Author},
      title = {{A title}},
      booktitle = {ICML},
      year = {2024},
      eprint = {2401.00001},
      archiveprefix = {arXiv},
    }
    """
    kind, where = ("article", "journal") if paper.journal else ("inproceedings", "booktitle")
    fields = {
        "author": " and ".join(paper.authors),
        "title": f"{{{paper.title}}}",
        where: paper.venue,
        "year": str(paper.year),
        "doi": paper.doi,
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{paper.key},", *lines, "}"])
