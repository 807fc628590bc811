"""The asv suite, one file per subject; `harness` is what the subjects stand on."""
