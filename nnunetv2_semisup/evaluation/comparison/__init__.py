"""`nnUNetv2_semisup compare`: from folders of runs to one table that refuses what is not comparable.

`finding` and `reading` turn what was typed into runs, `comparability` and `leaks` say which of them may stand side by
side, `rows` and `seeds` group them, `metrics` and `scoring` measure their segmentations, `statistics` says how sure the
differences are, `notes` what weakens them, `tables`, `page` and `pictures` write it down,
`compare` calls them in this order.
"""
