"""From methods, label counts, folds and seeds to trainings and their comparison.

`runs` says what is trained and what it is called, `commands` what to type for it, `checks` why not to begin, `folder`
what is on the disk, `preparation`, `training` and `execution` do it on this machine, `submission` hands it to SLURM.
"""
