"""What rows of the tests have in common."""

FIELDS = {
    "experiment": "finetune",
    "source": "model",
    "target": "digits",
    "seed": 0,
    "zoo": "zoo",
    "revision": None,
    "machine": "a machine",
    "seconds": 1.0,
}
