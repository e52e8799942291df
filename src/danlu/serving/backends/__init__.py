"""Engines behind the gateway: transformers in this process, llama.cpp, vLLM, any OpenAI-compatible server."""
