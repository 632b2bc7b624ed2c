"""What goes wrong in a training, in its evaluation, or with the files of a model."""

from schemas.errors.reactions import RejectError


class TrainingFailed(RejectError):
    """The training process ended without a result; see its log for the reason."""

    code = "training_failed"


class TrainingOutOfMemory(TrainingFailed):
    """Training ran out of memory even with the smallest batch; use a smaller base model."""

    code = "out_of_memory"


class EvaluationFailed(RejectError):
    """The new version did not know what it was taught; the previous one goes on serving."""

    code = "evaluation_failed"


class AdapterUnsupported(RejectError):
    """Adapters of this base model cannot be written as GGUF; choose another base model."""

    code = "adapter_unsupported"


class AdapterMismatch(RejectError):
    """The adapter belongs to another base model; train it again on this one."""

    code = "adapter_mismatch"


class ExampleTooLong(RejectError):
    """An example has more tokens than max_seq_length; raise it or build the data set again."""

    code = "example_too_long"


class FolderNotOurs(RejectError):
    """The folder holds files that ModelServer did not write; empty it or name another.

    Not fatal: it is about one base model, and jobs on others go on.
    """

    code = "folder_not_ours"


class ArtefactCorrupt(RejectError):
    """A file's hash is not the one recorded for it; it was set aside and must be rebuilt."""

    code = "artefact_corrupt"
