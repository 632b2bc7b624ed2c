"""What is wrong with a record, an event, a command or a chat request."""

from schemas.errors.reactions import RejectError


class MalformedRecord(RejectError):
    """The record's bytes are no JSON object in UTF-8; correct the producer."""

    code = "malformed_record"


class InvalidEvent(RejectError):
    """A field is missing or wrong; correct the producer."""

    code = "invalid_event"


class MessageTooLarge(RejectError):
    """The message is larger than what is accepted; send a shorter one."""

    code = "message_too_large"


class UnknownElder(RejectError):
    """Nothing is known of this elder; check the id, or send answers first."""

    code = "unknown_elder"


class NoAnswers(RejectError):
    """The elder has no usable answers yet; collect some and ask again."""

    code = "no_answers"


class ElderIdClash(RejectError):
    """Another elder's id differs in case alone, and Ollama takes both for one; change one."""

    code = "elder_id_clash"


class UnknownBaseModel(RejectError):
    """The base model is not in training_config.yaml; name one of those it lists."""

    code = "unknown_base_model"


class OverridesOutOfBounds(RejectError):
    """A training override is out of bounds; stay within the documented range."""

    code = "overrides_out_of_bounds"


class UnknownCommand(RejectError):
    """The command is not known; use one of the documented ones."""

    code = "unknown_command"


class UnknownJob(RejectError):
    """There is no such job; list the jobs to see their ids."""

    code = "unknown_job"


class UnknownVersion(RejectError):
    """There is no such version of this model; get the model to see its versions."""

    code = "unknown_version"


class UnknownDeadLetter(RejectError):
    """There is no dead letter at this place; list them to see where they are."""

    code = "unknown_letter"


class JobAlreadyEnded(RejectError):
    """The job has already ended; nothing was changed."""

    code = "job_already_ended"


class ModelNotReady(RejectError):
    """The elder has no model yet; send train-requested and wait for model-ready."""

    code = "model_not_ready"


class DeadlineExceeded(RejectError):
    """The request's deadline passed before it could be answered; ask again."""

    code = "deadline_exceeded"


class ReplyTopicRefused(RejectError):
    """The reply topic is not on the allow-list; add it to the settings or use another."""

    code = "reply_topic_refused"
