"""What the wire shows of the messages of a .proto file."""

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor


def of_file(descriptor: FileDescriptor) -> dict[str, dict[str, list]]:
    """Messages, enums and services by full name: what each field, value or method of theirs is."""
    found: dict[str, dict[str, list]] = {}
    for message in descriptor.message_types_by_name.values():
        found |= _messages(message)
    for enum in descriptor.enum_types_by_name.values():
        found |= _enum(enum)
    for service in descriptor.services_by_name.values():
        found[service.full_name] = {
            method.name: [
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            ]
            for method in service.methods
        }
    return found


def _messages(descriptor: Descriptor) -> dict[str, dict[str, list]]:
    found = {descriptor.full_name: {field.name: _field(field) for field in descriptor.fields}}
    for nested in descriptor.nested_types:
        found |= _messages(nested)
    for enum in descriptor.enum_types:
        found |= _enum(enum)
    return found


def _field(field: FieldDescriptor) -> list:
    kind = field.message_type or field.enum_type
    of = field.containing_oneof
    return [
        field.number,
        field.type,
        field.is_repeated,
        kind.full_name if kind is not None else "",
        of.name if of is not None else "",
    ]


def _enum(descriptor: EnumDescriptor) -> dict[str, dict[str, list]]:
    return {descriptor.full_name: {value.name: [value.number] for value in descriptor.values}}
