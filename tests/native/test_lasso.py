import numpy as np


def test_shrinks_uncorrelated_coefficients(harness):
    gram, rhs = np.diag([1.0, 2.0, 4.0, 0.0]), np.array([3.0, -3.0, 0.5, 7.0])
    coefficients = harness.lasso(gram, rhs, 1.0, 1e-10, 10)
    np.testing.assert_array_equal(coefficients, [2.0, -1.0, 0.0, 0.0])


def test_two_correlated_coefficients(harness):
    """Both active with positive signs: gram @ b = rhs - alpha."""
    gram, rhs = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([5.0, 4.0])
    coefficients = harness.lasso(gram, rhs, 1.0, 1e-14, 1000)
    np.testing.assert_allclose(coefficients, [5 / 3, 2 / 3], rtol=1e-12)


def test_stops_after_the_last_sweep(harness):
    gram, rhs = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([5.0, 4.0])
    np.testing.assert_array_equal(harness.lasso(gram, rhs, 1.0, 0.0, 0), [0.0, 0.0])
    np.testing.assert_array_equal(harness.lasso(gram, rhs, 1.0, 0.0, 1), [2.0, 0.5])
    np.testing.assert_array_equal(harness.lasso(gram, rhs, 1.0, 0.0, 2), [1.75, 0.625])
