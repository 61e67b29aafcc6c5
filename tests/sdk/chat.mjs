// What a program written with OpenAI's Node SDK does with a gateway. Takes the base URL, prints "ok".

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused" });
const ask = [{ role: "user", content: "one two three" }];

// Lists.
const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert(names.includes("echo") && names.includes("gpt41"), String(names));
assert.equal((await client.models.retrieve("gpt41")).owned_by, "mammouth");

// Whole answers.
const answer = await client.chat.completions.create({ model: "echo", messages: ask, temperature: 0 });
assert.equal(answer.choices[0].message.content, "one two three");
assert.equal(answer.choices[0].finish_reason, "stop");
assert(answer.usage.total_tokens > 0);

// Streams.
let text = "";
let usage = null;
const chunks = await client.chat.completions.create({
  model: "echo",
  messages: ask,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of chunks) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, "one two three");
assert(usage.total_tokens > 0);

// Tools, whole and streamed.
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
const called = await client.chat.completions.create({ model: "gpt41", messages: ask, tools });
assert.equal(called.choices[0].message.tool_calls[0].function.arguments, '{"city": "Bern"}');
const stream = client.chat.completions.stream({ model: "gpt41", messages: ask, tools });
const final = await stream.finalChatCompletion();
assert.equal(final.choices[0].message.tool_calls[0].function.name, "weather");
assert.equal(final.choices[0].message.tool_calls[0].function.arguments, '{"city": "Bern"}');

// Embeddings; the SDK asks for base64 by itself.
const vector = (await client.embeddings.create({ model: "embedding-small", input: "x" })).data[0].embedding;
assert.deepEqual([...vector], [1, 2]);

// Errors.
const fails = async (kind, more) => {
  const request = client.chat.completions.create({ model: "gpt41", messages: ask, ...more });
  return request.then(
    () => assert.fail(`${kind.name} was not raised`),
    (error) => {
      assert(error instanceof kind, String(error));
      return error;
    },
  );
};
assert.equal((await fails(OpenAI.NotFoundError, { model: "gpt42" })).code, "model_not_found");
assert.equal((await fails(OpenAI.BadRequestError, { retries: 99 })).param, "retries");
const broken = await client.chat.completions.create({ model: "gpt41", messages: ask, user: "breaks", stream: true });
await assert.rejects(async () => {
  for await (const _ of broken);
});
// These take a provider's key and account out of use, so they come last.
assert.equal((await fails(OpenAI.InternalServerError, { model: "kimi", user: "key" })).code, "provider_key");
assert.equal((await fails(OpenAI.RateLimitError, { user: "quota" })).code, "insufficient_quota");
console.log("ok");
