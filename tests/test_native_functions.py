"""Elementary functions of the C++ kernels against float64."""

import ctypes
import math

import numpy as np
import pytest
from native_helpers import LANES

from hyperrep.population.native import compile as native_compile


def kernel(function: str, values: np.ndarray) -> np.ndarray:
    """exp, tanh or erf of the kernels, in float64 for comparison."""
    library = native_compile.load_library()
    padded = np.zeros(-(-len(values) // LANES) * LANES, np.float32)
    padded[: len(values)] = values
    library.hyperrep_function(
        ["exp", "tanh", "erf"].index(function), ctypes.c_void_p(padded.ctypes.data), ctypes.c_int(len(padded) // LANES)
    )
    return padded[: len(values)].astype(np.float64)


def reference(function: str, values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return np.vectorize(math.erf)(wide) if function == "erf" else getattr(np, function)(wide)


def in_units(error: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """An error in units in the last place of the float32 result."""
    return np.abs(error) / np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize(("function", "low", "high"), [("exp", -87, 88), ("tanh", -12, 12), ("erf", -5, 5)])
def test_functions_are_accurate_to_a_few_units_in_the_last_place(function, low, high):
    grid = np.linspace(low, high, 20_001).astype(np.float32)
    expected = reference(function, grid)
    error = in_units(kernel(function, grid) - expected, expected)
    assert error.max() < 4, grid[error.argmax()]


@pytest.mark.parametrize("function", ["tanh", "erf"])
def test_tiny_arguments_keep_their_relative_precision(function):
    magnitudes = np.logspace(-37, -1, 2_001).astype(np.float32)
    values = np.concatenate([magnitudes, -magnitudes])
    expected = reference(function, values)
    assert in_units(kernel(function, values) - expected, expected).max() < 3
    assert kernel(function, np.array([0.0], np.float32)).tolist() == [0.0]


def test_exp_of_tiny_arguments_is_one():
    values = np.array([0.0, -0.0, 1e-30, -1e-30, 1e-9], np.float32)
    assert kernel("exp", values).tolist() == [1.0] * 5


def test_what_is_left_of_a_saturated_tanh_is_right():
    """Networks that start from U(0, 1) learn through 1 - tanh^2 of arguments like these."""
    values = np.linspace(4, 9, 501).astype(np.float32)
    slope = 1 - np.square(kernel("tanh", values).astype(np.float32))  # in float32, as the kernels compute it
    exact = 1 - np.square(np.tanh(values.astype(np.float64)))
    assert np.abs(slope - exact).max() < 4 * 2.0**-24  # spacing of float32 just below one


@pytest.mark.parametrize("function", ["tanh", "erf"])
def test_saturated_arguments_give_exactly_one_with_the_right_sign(function):
    values = np.array([20, 44, 45, 89, 1e4, 1e19, 3e38, np.inf], np.float32)
    assert kernel(function, values).tolist() == [1.0] * 8
    assert kernel(function, -values).tolist() == [-1.0] * 8


def test_exp_is_clamped_where_float32_ends():
    values = np.array([88, 89, 1e5, np.inf, -87, -88, -1e5, -np.inf], np.float32)
    result = kernel("exp", values)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[:4], math.exp(88), rtol=1e-6)
    np.testing.assert_allclose(result[4:], math.exp(-87), rtol=1e-6)


@pytest.mark.parametrize("function", ["exp", "tanh", "erf"])
def test_nan_stays_nan_and_stays_in_its_lane(function):
    values = np.full(3 * LANES, 0.5, np.float32)
    values[LANES + 1] = np.nan
    result = kernel(function, values)
    assert np.isnan(result[LANES + 1])
    assert np.isnan(result).sum() == 1
    assert len(np.unique(result[~np.isnan(result)])) == 1  # every lane computes the same
