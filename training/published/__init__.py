"""Id-only models for splits that papers publish figures on."""
