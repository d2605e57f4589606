//! What each provider's API answers.

use serde_json::{Map, Value, json};

use crate::Usage;
use crate::script::{Action, Position, Step, call, smallest, texts};

/// An answer, as a stream and as one document.
pub(crate) struct Reply {
    pub(crate) events: Vec<Value>,
    /// Whether events have names.
    pub(crate) named: bool,
    /// Whether `[DONE]` follows.
    pub(crate) done: bool,
    pub(crate) document: Value,
    pub(crate) stream: bool,
    pub(crate) delay: Option<std::time::Duration>,
}

/// What is asked of which API.
pub(crate) struct Asked<'a> {
    pub(crate) body: &'a Value,
    pub(crate) script: &'a [Step],
    pub(crate) usage: Usage,
    /// Unique to the request.
    pub(crate) id: String,
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn model(body: &Value) -> Value {
    body.get("model").cloned().unwrap_or_else(|| "scripted".into())
}

/// The step, and the call it comes to. Requests without tools are a client's own (titles, summaries) and get a
/// short text, or what their schema wants.
fn decide(
    asked: &Asked<'_>,
    position: &Position,
    tools: &Map<String, Value>,
    schema: Option<&Value>,
) -> (Step, Option<(String, Value)>) {
    if let Some(schema) = schema.filter(|_| tools.is_empty()) {
        return (Step::text(smallest(schema).to_string()), None);
    }
    if tools.is_empty() {
        let step = position.step(asked.script);
        return (if matches!(step.action, Action::Text(_)) { step } else { Step::text("ok") }, None);
    }
    let step = position.step(asked.script);
    let call = call(&step, tools);
    if call.is_none() && matches!(step.action, Action::Shell(_)) {
        let names: Vec<&str> = tools.keys().map(String::as_str).collect();
        return (Step::text(format!("no shell tool among {}", names.join(", "))), None);
    }
    (step, call)
}

fn text_of(step: &Step) -> &str {
    match &step.action {
        Action::Text(text) => text,
        _ => "done",
    }
}

/// A text as it is streamed: word by word.
fn words(text: &Value) -> impl Iterator<Item = &str> {
    text.as_str().unwrap_or_default().split_inclusive(' ')
}

/// Anthropic Messages.
pub(crate) fn anthropic(asked: &Asked<'_>) -> Reply {
    let Asked { body, usage, id, .. } = asked;
    let mut position = Position::default();
    for message in list(&body["messages"]) {
        let content = &message["content"];
        if message["role"] == "assistant" {
            position.turn();
        } else if !list(content).iter().any(|block| block["type"] == "tool_result") {
            position.said(texts(content));
        }
    }
    let tools = list(&body["tools"])
        .iter()
        .filter_map(|tool| Some((tool["name"].as_str()?.to_owned(), tool["input_schema"].clone())));
    let tools: Map<String, Value> = tools.collect();
    let schema = body.pointer("/output_config/format/schema").or_else(|| body.pointer("/output_format/schema"));
    let (step, call) = decide(asked, &position, &tools, schema);
    let mut blocks = Vec::new();
    let stop = if call.is_some() { "tool_use" } else { "end_turn" };
    match call {
        Some((name, input)) => {
            blocks.extend(step.say.as_ref().map(|say| json!({"type": "text", "text": say})));
            blocks.push(json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": name, "input": input}));
        }
        None => blocks.push(json!({"type": "text", "text": text_of(&step)})),
    }
    let counts = |output: u64| {
        json!({
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": output,
        })
    };
    let message = |content: &[Value], stop: Option<&str>, output| {
        json!({
            "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": model(body),
            "content": content, "stop_reason": stop, "stop_sequence": null, "usage": counts(output),
        })
    };
    let mut events = vec![json!({"type": "message_start", "message": message(&[], None, 1)})];
    for (index, block) in blocks.iter().enumerate() {
        let (start, deltas) = if block["type"] == "text" {
            let deltas = words(&block["text"]).map(|word| json!({"type": "text_delta", "text": word})).collect();
            (json!({"type": "text", "text": ""}), deltas)
        } else {
            let mut start = block.clone();
            start["input"] = json!({});
            (start, vec![json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})])
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        for delta in deltas {
            events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({
        "type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
        "usage": {"output_tokens": usage.output},
    }));
    events.push(json!({"type": "message_stop"}));
    let document = message(&blocks, Some(stop), usage.output);
    Reply { events, named: true, done: false, document, stream: body["stream"] == true, delay: step.delay }
}

/// OpenAI Responses.
pub(crate) fn responses(asked: &Asked<'_>) -> Reply {
    let Asked { body, usage, id, .. } = asked;
    let mut position = Position::default();
    let mut tools = Map::new();
    let mut kinds = Map::new();
    offered(&body["tools"], None, &mut tools, &mut kinds);
    if let Some(text) = body["input"].as_str() {
        position.said([text]);
    }
    for item in list(&body["input"]) {
        let kind = item["type"].as_str().unwrap_or("message");
        if kind.ends_with("_call_output") {
            position.turn();
        } else if kind == "message" && item["role"] == "user" {
            position.said(texts(&item["content"]));
        } else if kind == "additional_tools" {
            // Newer Codex sends its tools as an item of the input.
            offered(&item["tools"], None, &mut tools, &mut kinds);
        }
    }
    let format = &body["text"]["format"];
    let schema = (format["type"] == "json_schema").then(|| &format["schema"]);
    let (step, call) = decide(asked, &position, &tools, schema);
    let call_id = format!("call_{id}");
    let item = match call {
        None => json!({
            "type": "message", "id": format!("msg_{id}"), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text_of(&step), "annotations": []}],
        }),
        Some((name, arguments)) => match (kinds[&name]["type"].as_str(), &step.action) {
            (Some("local_shell"), Action::Shell(command)) => json!({
                "type": "local_shell_call", "id": format!("lsh_{id}"), "call_id": call_id, "status": "completed",
                "action": {"type": "exec", "command": ["bash", "-lc", command]},
            }),
            (Some("custom"), action) => {
                // A tool of free form: Codex takes JavaScript.
                let input = match action {
                    Action::Shell(command) => {
                        format!(
                            "const r = await tools.exec_command({{cmd: {}}}); text(r);",
                            Value::from(command.as_str())
                        )
                    }
                    _ => arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned),
                };
                let mut item = json!({
                    "type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": call_id, "name": name,
                    "input": input, "status": "completed",
                });
                if kinds[&name]["namespace"].is_string() {
                    item["namespace"] = kinds[&name]["namespace"].clone();
                }
                item
            }
            _ => json!({
                "type": "function_call", "id": format!("fc_{id}"), "call_id": call_id, "name": name,
                "arguments": arguments.to_string(), "status": "completed",
            }),
        },
    };
    let input = usage.input + usage.cached;
    let response = |status: &str, output: &[&Value], counts: Value| {
        json!({
            "id": format!("resp_{id}"), "object": "response", "created_at": 0, "status": status, "model": model(body),
            "output": output, "parallel_tool_calls": false, "error": null, "usage": counts,
        })
    };
    let counts = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + usage.output,
    });
    let document = response("completed", &[&item], counts);
    let mut started = item.clone();
    started["status"] = "in_progress".into();
    let at = |kind: &str, key: &str, value: &Value| {
        let mut event = json!({"type": kind, "item_id": item["id"], "output_index": 0});
        event[key] = value.clone();
        event
    };
    let mut events = vec![
        json!({"type": "response.created", "response": response("in_progress", &[], Value::Null)}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": started}),
    ];
    match item["type"].as_str() {
        Some("message") => {
            let text = &item["content"][0]["text"];
            let deltas = words(text).map(|word| at("response.output_text.delta", "delta", &word.into()));
            for mut event in deltas.chain([at("response.output_text.done", "text", text)]) {
                event["content_index"] = 0.into();
                events.push(event);
            }
        }
        Some("function_call") => {
            let arguments = &item["arguments"];
            events.push(at("response.function_call_arguments.delta", "delta", arguments));
            events.push(at("response.function_call_arguments.done", "arguments", arguments));
        }
        _ => {}
    }
    events.push(json!({"type": "response.output_item.done", "output_index": 0, "item": item}));
    events.push(json!({"type": "response.completed", "response": document}));
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = number.into();
    }
    Reply { events, named: true, done: false, document, stream: body["stream"] == true, delay: step.delay }
}

/// Newer Codex groups tools by namespaces.
fn offered(list_of: &Value, namespace: Option<&str>, tools: &mut Map<String, Value>, kinds: &mut Map<String, Value>) {
    for tool in list(list_of) {
        let Some(name) = tool["name"].as_str().or(tool["type"].as_str()) else { continue };
        if tool["type"] == "namespace" {
            offered(&tool["tools"], Some(name), tools, kinds);
        } else {
            tools.insert(name.into(), tool["parameters"].clone());
            kinds.insert(name.into(), json!({"type": tool["type"], "namespace": namespace}));
        }
    }
}

/// OpenAI Chat Completions.
pub(crate) fn chat(asked: &Asked<'_>) -> Reply {
    let Asked { body, usage, id, .. } = asked;
    let mut position = Position::default();
    for message in list(&body["messages"]) {
        if message["role"] == "tool" {
            position.turn();
        } else if message["role"] == "user" {
            position.said(texts(&message["content"]));
        }
    }
    let named =
        |tool: &Value| Some((tool["function"]["name"].as_str()?.to_owned(), tool["function"]["parameters"].clone()));
    let tools: Map<String, Value> = list(&body["tools"]).iter().filter_map(named).collect();
    let (step, call) = decide(asked, &position, &tools, None);
    let finish = if call.is_some() { "tool_calls" } else { "stop" };
    let mut message = json!({"role": "assistant", "content": text_of(&step)});
    if let Some((name, arguments)) = call {
        message["content"] = Value::Null;
        message["tool_calls"] = json!([{
            "index": 0, "id": format!("call_{id}"), "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()},
        }]);
    }
    let input = usage.input + usage.cached;
    let counts = json!({
        "prompt_tokens": input, "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens": usage.output, "total_tokens": input + usage.output,
    });
    let object = |object: &str, choices: Value| json!({"id": format!("chatcmpl-{id}"), "created": 0, "model": model(body), "object": object, "choices": choices});
    let chunk = |delta: &Value, finish: Option<&str>| {
        object("chat.completion.chunk", json!([{"index": 0, "delta": delta, "finish_reason": finish}]))
    };
    let mut events: Vec<Value> = if message["content"].is_null() {
        vec![chunk(&message, None)]
    } else {
        words(&message["content"]).map(|word| chunk(&json!({"role": "assistant", "content": word}), None)).collect()
    };
    events.push(chunk(&json!({}), Some(finish)));
    if body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)) {
        let mut last = object("chat.completion.chunk", json!([]));
        last["usage"] = counts.clone();
        events.push(last);
    }
    let mut document = object("chat.completion", json!([{"index": 0, "message": message, "finish_reason": finish}]));
    document["usage"] = counts;
    Reply { events, named: false, done: true, document, stream: body["stream"] == true, delay: step.delay }
}

/// Gemini generateContent.
pub(crate) fn gemini(asked: &Asked<'_>, model: &str, stream: bool) -> Reply {
    let Asked { body, usage, id, .. } = asked;
    let mut position = Position::default();
    for content in list(&body["contents"]) {
        let parts = &content["parts"];
        if content["role"] == "model" {
            position.turn();
        } else if !list(parts).iter().any(|part| part.get("functionResponse").is_some()) {
            position.said(texts(parts));
        }
    }
    let declared = list(&body["tools"]).iter().flat_map(|tool| list(&tool["functionDeclarations"]));
    let schema_of =
        |tool: &Value| tool.get("parametersJsonSchema").or(tool.get("parameters")).cloned().unwrap_or_default();
    let tools: Map<String, Value> =
        declared.filter_map(|tool| Some((tool["name"].as_str()?.to_owned(), schema_of(tool)))).collect();
    let config = &body["generationConfig"];
    let any = json!({"type": "object"});
    let schema = config.get("responseJsonSchema").or(config.get("responseSchema"));
    let schema = schema.or((config["responseMimeType"] == "application/json").then_some(&any));
    let (step, call) = decide(asked, &position, &tools, schema);
    let part = match call {
        Some((name, args)) => json!({"functionCall": {"name": name, "args": args}}),
        None => json!({"text": text_of(&step)}),
    };
    let input = usage.input + usage.cached;
    let document = json!({
        "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": input, "cachedContentTokenCount": usage.cached,
            "candidatesTokenCount": usage.output, "totalTokenCount": input + usage.output,
        },
        "modelVersion": model,
        "responseId": id,
    });
    Reply { events: vec![document.clone()], named: false, done: false, document, stream, delay: step.delay }
}
