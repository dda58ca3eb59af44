"""How static files are named and stored."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticStorage(CompressedManifestStaticFilesStorage):
    """Names with a hash, so browsers may keep them for ever; a .gz beside each, which nginx and WhiteNoise send.

    References inside CSS are rewritten, those to source maps are not: the maps are left out (config/apps.py).
    """

    patterns = tuple(
        (extension, tuple(pattern for pattern in patterns if "sourceMappingURL" not in str(pattern)))
        for extension, patterns in CompressedManifestStaticFilesStorage.patterns
    )
