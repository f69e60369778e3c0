"""The messages of CosyVoice's gRPC service, described here and built when they are first needed.

Names, numbers and types are the published contract (docs/api.md has it as a .proto file). Built at run time, they fit
whatever protobuf is installed; generated code would fit one range of its versions.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "cosyvoice"
SERVICE = f"{PACKAGE}.CosyVoice"
METHOD = "Inference"
PAYLOAD = "RequestPayload"

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {"string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES}

# message -> its fields, in the order of their numbers from 1; a message as type is one of the alternatives of a request
MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "sftRequest": (("string", "spk_id"), ("string", "tts_text")),
    "zeroshotRequest": (("string", "tts_text"), ("string", "prompt_text"), ("bytes", "prompt_audio")),
    "crosslingualRequest": (("string", "tts_text"), ("bytes", "prompt_audio")),
    "instructRequest": (("string", "tts_text"), ("string", "spk_id"), ("string", "instruct_text")),
    "Request": (
        ("sftRequest", "sft_request"),
        ("zeroshotRequest", "zero_shot_request"),
        ("crosslingualRequest", "cross_lingual_request"),
        ("instructRequest", "instruct_request"),
    ),
    "Response": (("bytes", "tts_audio"),),
}


def message_classes() -> dict[str, Any]:
    """Name -> protobuf message class, in a pool of its own, so that a client's generated code may be loaded beside."""
    file = descriptor_pb2.FileDescriptorProto(name="cosyvoice.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (kind, field_name) in enumerate(fields, 1):
            field = message.field.add(name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL)
            if kind in _TYPES:
                field.type = _TYPES[kind]
                continue
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            if not message.oneof_decl:
                message.oneof_decl.add(name=PAYLOAD)
            field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}
