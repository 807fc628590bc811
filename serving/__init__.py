"""BAGEL behind the OpenAI images API, and a load generator for any server of that API."""
