"""A pipeline of two steps that pass data on: one prepares examples, the next trains a classifier on them.

The steps are plain functions: data_passing_steps.py. What one returns is what the next is given.
"""

import data_passing_steps as steps
from kfp import dsl

NEEDS = {"base_image": "docker.io/library/python:3.12-slim", "packages_to_install": ["scikit-learn==1.7.2"]}

preprocess = dsl.component(steps.preprocess, **NEEDS)
train = dsl.component(steps.train, **NEEDS)


@dsl.pipeline(name="data-passing", description="Data passed from one step to the next")
def data_passing(test_share: float = 0.2, iterations: int = 200) -> float:
    """Train on what was prepared; the result is the share of the other examples that is recognized."""
    examples = preprocess(test_share=test_share)
    return train(examples=examples.output, iterations=iterations).output
