"""Work that takes a while: training, pre-training, evaluating; can be stopped and gone on with."""
