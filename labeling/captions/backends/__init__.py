"""Who answers: `server`, any OpenAI-compatible server, and `local`, a model in this process."""
