"""Everything that can go wrong because of what a person handed in, drawn as a tree.

    VlpError
    +-- ConfigError       a configuration cannot be read or does not say what is needed
    +-- DataError         an archive, shard, image, report or prompt is not what it claims to be
    +-- PrivacyError      something identifying would leave the building
    +-- CheckpointError   a model folder is damaged, incomplete or of another design
    +-- BackendError      a library or device that was asked for is not there

A message is one line that says what was wrong, where, and what to do about it.  Messages never hold
identifiers or report text.  Our own mistakes are `assert`ions, never a `VlpError`.
"""


class VlpError(Exception):
    """A fault in the input or the surroundings; the command line prints it as one line and exits with 2."""


class ConfigError(VlpError):
    """A configuration file or an override that its author must correct."""


class DataError(VlpError):
    """An archive, shard, image, report or prompt that cannot be used as it is."""


class PrivacyError(VlpError):
    """Output refused because it would carry something identifying."""


class CheckpointError(VlpError):
    """A checkpoint folder that cannot be loaded."""


class BackendError(VlpError):
    """A missing library, weight file or device, named with the way to get it."""
