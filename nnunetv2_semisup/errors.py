"""The one exception that users are meant to read."""


class SemiSupervisedError(Exception):
    """Something the user can mend: the message is one line that says what is wrong and what to type.

    Raised before anything is written. Commands of ours print the message without a traceback; under stock
    nnU-Net commands it is the last line of the traceback.
    """
