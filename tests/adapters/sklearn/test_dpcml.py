"""DPCML is a scikit-learn estimator: its common checks."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from graftkit.sklearn import DPCML

# The checks send dense random matrices, in which users own nearly every item.
FULL_USERS = ("ignore:.*own every item:UserWarning", "ignore:no user has both:UserWarning")


@parametrize_with_checks([DPCML(n_components=4, n_vectors=2, max_iter=2, random_state=0), DPCML()])
@pytest.mark.filterwarnings(*FULL_USERS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
