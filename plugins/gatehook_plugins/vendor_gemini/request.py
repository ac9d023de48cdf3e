"""The body of generateContent and streamGenerateContent: GenerateContentRequest of the Gemini API, v1beta."""

from collections.abc import Mapping
from typing import Any, Final

from gatehook import Attempt, Egress, InvalidRequest, Retry, read_conversation
from gatehook_plugins.vendor_gemini.contents import ContentsWriter
from gatehook_plugins.vendor_gemini.history import prepared
from gatehook_plugins.vendor_gemini.media import MediaWriter, fetch_images
from gatehook_plugins.vendor_gemini.options import Options
from gatehook_plugins.vendor_gemini.schema import SchemaConverter
from gatehook_plugins.vendor_gemini.thinking import is_third_generation, thinking_config
from gatehook_plugins.vendor_gemini.tools import function_calling, function_declarations, validated

__all__ = ["generate_body"]

_NUMBERS: Final = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)
_MOST_STOPS: Final = 5
_MOST_CANDIDATES: Final = 8
_INT32: Final = (-(2**31), 2**31 - 1)


async def generate_body(
    attempt: Attempt, payload: Mapping[str, Any], options: Options, egress: Egress
) -> dict[str, Any]:
    """Write the request for a chat.

    Args:
        attempt: whose deployment is called, and which is told what is lost.
        payload: the chat in OpenAI's shape.
        options: the deployment's.
        egress: gets the images that the client gave by URL.

    Raises:
        InvalidRequest: something Gemini cannot do; another deployment may.
    """
    # Everything that can be refused at once is, before any image is fetched.
    body = _settings(attempt, payload, options)
    conversation = read_conversation(prepared(payload["messages"], attempt.drop), attempt.drop, takes_pictures=True)
    if not conversation.turns:
        raise _refused("messages", "Gemini needs a message that is neither empty nor a system message")
    images = await fetch_images(conversation, egress)
    third = is_third_generation(attempt.target.model)
    media = MediaWriter(attempt.target, conversation, images, attempt.drop, per_part=third)
    writer = ContentsWriter(media, attempt.drop, third=third, function_ids=options.function_ids)
    body["contents"] = writer.contents(conversation)
    if system := writer.system(conversation):
        body["systemInstruction"] = system
    if media.resolution:
        body.setdefault("generationConfig", {})["mediaResolution"] = media.resolution
    return body


def _settings(attempt: Attempt, payload: Mapping[str, Any], options: Options) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if config := _generation_config(attempt, payload, options):
        body["generationConfig"] = config
    if "tools" in payload or "tool_choice" in payload:
        _tools(attempt, payload, body, options.json_schema)
    if safety := options.safety():
        body["safetySettings"] = safety
    return body


def _tools(attempt: Attempt, payload: Mapping[str, Any], body: dict[str, Any], json_schema: bool) -> None:
    tools, calling = payload.get("tools", []), None
    declarations = function_declarations(tools, attempt.drop, json_schema=json_schema)
    if declarations:
        body["tools"] = [{"functionDeclarations": declarations}]
    if "tool_choice" in payload:
        calling = function_calling(payload["tool_choice"], [one["name"] for one in declarations])
    if json_schema and declarations and any(tool["function"].get("strict") for tool in tools):
        calling = validated(calling)
    if calling:
        body["toolConfig"] = {"functionCallingConfig": calling}


def _generation_config(attempt: Attempt, payload: Mapping[str, Any], options: Options) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, key in _NUMBERS:
        if name in payload:
            config[key] = _number(payload, name)
    if "top_k" in payload:
        config["topK"] = _integer(payload, "top_k", 1)
    if "seed" in payload:
        config["seed"] = _integer(payload, "seed", *_INT32)
    if "n" in payload and (count := _integer(payload, "n", 1, _MOST_CANDIDATES)) > 1:
        config["candidateCount"] = count
    if stops := _stops(payload.get("stop")):
        config["stopSequences"] = stops
    if (limit := _max_tokens(attempt, payload)) is not None:
        config["maxOutputTokens"] = limit
    if modalities := _modalities(payload.get("modalities")):
        config["responseModalities"] = modalities
    _logprobs(payload, config)
    if "response_format" in payload:
        _response_format(attempt, payload["response_format"], config, options.json_schema)
    if thinking := _thinking(attempt, payload, options):
        config["thinkingConfig"] = thinking
    return config


def _thinking(attempt: Attempt, payload: Mapping[str, Any], options: Options) -> dict[str, Any]:
    effort = payload.get("reasoning_effort")
    if payload.get("output_config", {}) not in ({}, {"effort": effort}):
        attempt.drop("output_config")
    return {} if effort is None else thinking_config(attempt.target.model, effort, options)


def _max_tokens(attempt: Attempt, payload: Mapping[str, Any]) -> int | None:
    name = "max_completion_tokens" if "max_completion_tokens" in payload else "max_tokens"
    if name not in payload:
        return None
    wanted = _integer(payload, name, 1)
    cap = attempt.target.max_tokens
    if cap is not None and wanted > cap:
        attempt.drop(name)
        return cap
    return wanted


def _modalities(wanted: Any) -> list[str]:
    """What the answer may be made of, [] for the model's own choice."""
    if wanted is None or wanted == ["text"]:
        return []
    if not isinstance(wanted, list) or not wanted or any(one not in ("text", "image") for one in wanted):
        raise _refused("modalities", "expected a list of 'text' and 'image'; nothing else is translated")
    return [one.upper() for one in dict.fromkeys(wanted)]


def _stops(stop: Any) -> list[str]:
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise _refused("stop", "expected a text or a list of texts")
    if len(stops) > _MOST_STOPS:
        raise _refused("stop", f"Gemini takes at most {_MOST_STOPS} stop sequences")
    return stops


def _logprobs(payload: Mapping[str, Any], config: dict[str, Any]) -> None:
    wanted = payload.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise _refused("logprobs", "expected true or false")
    if wanted:
        config["responseLogprobs"] = True
    if "top_logprobs" in payload:
        count = _integer(payload, "top_logprobs", 0, 20)
        if not wanted:
            raise _refused("top_logprobs", "needs logprobs to be true")
        if count:
            config["logprobs"] = count


def _response_format(attempt: Attempt, wanted: Any, config: dict[str, Any], json_schema: bool) -> None:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return
    if kind not in ("json_object", "json_schema"):
        raise _refused("response_format.type", "expected text, json_object or json_schema")
    config["responseMimeType"] = "application/json"
    if kind == "json_object":
        return
    given = wanted.get("json_schema")
    if not isinstance(given, dict) or not isinstance(given.get("schema", {}), dict):
        raise _refused("response_format.json_schema", "expected an object with a schema")
    if given.get("description"):
        attempt.drop("response_format.json_schema.description")
    if not (schema := given.get("schema")):
        return
    if json_schema:
        config["responseJsonSchema"] = schema
    else:
        path = "response_format.json_schema.schema"
        config["responseSchema"] = SchemaConverter(schema, path, attempt.drop).convert()


def _number(payload: Mapping[str, Any], name: str) -> float:
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(name, "expected a number")
    return value


def _integer(payload: Mapping[str, Any], name: str, least: int, most: int | None = None) -> int:
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused(name, "expected a whole number")
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise _refused(name, f"Gemini takes numbers {bounds}")
    return value


def _refused(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
