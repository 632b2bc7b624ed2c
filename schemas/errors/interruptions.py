"""What stops a piece of work from outside; none of these is a failure."""

from schemas.errors.reactions import Interrupted


class LeaseLost(Interrupted):
    """Another worker holds this job now; what this one still writes is refused."""

    code = "lease_lost"


class JobCancelled(Interrupted):
    """The job was cancelled on request."""

    code = "cancelled"


class TrainingKilled(Interrupted):
    """The training process was killed from outside; the job goes on from its last checkpoint."""

    code = "training_killed"


class Stopped(Interrupted):
    """The program is stopping; the work is left for the next owner."""

    code = "stopped"
