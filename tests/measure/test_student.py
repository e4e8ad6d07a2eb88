"""Student's t without SciPy gives what SciPy gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtr, stdtrit

from hotlap.measure import student


@given(st.floats(0.001, 0.9999), st.floats(0.6, 1e9))
def test_quantiles_are_scipys(probability: float, degrees: float) -> None:
    wanted = stdtrit(degrees, probability)
    assert student.quantile(probability, degrees) == pytest.approx(wanted, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("degrees", range(1, 40))
def test_tails_are_scipys(degrees: int) -> None:
    t = np.concatenate([np.linspace(-30, 30, 400), [0.0]])
    np.testing.assert_allclose(student.two_sided(t, degrees), 2 * stdtr(degrees, -np.abs(t)), rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_there_is_no_quantile_elsewhere(probability: float, degrees: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student.quantile(probability, degrees)
