"""The steps of the pipeline in data_passing.py. Each is a function for itself: what it needs, it imports."""


def preprocess(test_share: float) -> dict:
    """Take the measures of irises to one scale, and put a share of them aside."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    measures, kinds = load_iris(return_X_y=True)
    measures = StandardScaler().fit_transform(measures).round(3)
    train, test, train_kinds, test_kinds = train_test_split(measures, kinds, test_size=test_share, random_state=0, stratify=kinds)
    return {
        "train": train.tolist(),
        "train_kinds": train_kinds.tolist(),
        "test": test.tolist(),
        "test_kinds": test_kinds.tolist(),
    }


def train(examples: dict, iterations: int) -> float:
    """Train a classifier; return the share of what was put aside that it recognizes."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=iterations).fit(examples["train"], examples["train_kinds"])
    accuracy = float(model.score(examples["test"], examples["test_kinds"]))
    print(f"{accuracy:.0%} of {len(examples['test'])} irises are recognized")
    return accuracy
