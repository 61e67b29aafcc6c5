"""What a program written with OpenAI's Python SDK does with a gateway. Takes the base URL, prints "ok"."""

import sys

import openai
from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="unused")
ask = [{"role": "user", "content": "one two three"}]

# Lists.
names = [model.id for model in client.models.list()]
assert "echo" in names and "gpt41" in names, names
assert client.models.retrieve("gpt41").owned_by == "mammouth"

# Whole answers.
answer = client.chat.completions.create(model="echo", messages=ask, temperature=0)
assert answer.choices[0].message.content == "one two three", answer
assert answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0

# Streams.
text, usage = "", None
for chunk in client.chat.completions.create(
    model="echo", messages=ask, stream=True, stream_options={"include_usage": True}
):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert text == "one two three" and usage.total_tokens > 0, (text, usage)

# Tools, whole and streamed.
tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
answer = client.chat.completions.create(model="gpt41", messages=ask, tools=tools)
call = answer.choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Bern"}'), answer
with client.chat.completions.stream(model="gpt41", messages=ask, tools=tools) as stream:
    call = stream.get_final_completion().choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Bern"}'), call

# The gateway's own fields.
mine = {"session_id": "sdk", "system_prompt": "Be brief", "timeout": 30, "retries": 0}
client.chat.completions.create(model="gpt41", messages=ask, extra_body=mine)

# Embeddings; the SDK asks for base64 by itself.
vector = client.embeddings.create(model="embedding-small", input="x").data[0].embedding
assert vector == [1.0, 2.0], vector


def fails(kind, **more):
    try:
        client.chat.completions.create(**{"model": "gpt41", "messages": ask, **more})
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


# Errors.
assert fails(openai.NotFoundError, model="gpt42").code == "model_not_found"
assert fails(openai.BadRequestError, extra_body={"retries": 99}).param == "retries"
assert "too long" in str(fails(openai.BadRequestError, user="too-long"))
fails(openai.InternalServerError, user="down", extra_body={"retries": 0})
try:
    for _ in client.chat.completions.create(model="gpt41", messages=ask, user="breaks", stream=True):
        pass
    raise AssertionError("a broken stream was not noticed")
except openai.APIError:
    pass
# These take a provider's key and account out of use, so they come last.
assert fails(openai.InternalServerError, model="kimi", user="key").code == "provider_key"
assert fails(openai.RateLimitError, user="quota").code == "insufficient_quota"
print("ok")
