"""OpenAI's shapes, read and made: what every vendor that speaks another dialect needs."""
