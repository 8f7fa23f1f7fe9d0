"""What is raised, with a plain sentence, for a function that cannot be audited."""


class AuditError(ValueError):
    """The function cannot be audited; the message says why and what is allowed."""
