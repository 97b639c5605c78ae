"""Convert core values to and from the link's protobuf messages, all but bids (see bid_messages.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from billet.core.errors import Code
from billet.core.identity import ROWS
from billet.core.metadata import Metadata
from billet.core.model import (
    UNCERTAINTY,
    Facts,
    Image,
    Observed,
    Reason,
    Refusal,
    Resources,
    VmState,
)
from billet.core.pressure import Stalls
from billet.core.report import HostImages, InventoryUpdate, MachineFacts, Report
from billet.core.scoring import Weights
from billet.core.vmm import Vmm
from billet.link import bounds
from billet.ports import Created, Denied, Ended, Failed, NotTaken, Outcome, Unknown
from billet.wire.metadata import from_host, is_binary
from billet.wire.pb import link_pb2 as pb

HOSTS_REASONS = Reason.__members__.keys() - {"SILENT", "AWAY", "SUSPECT", "FAULT"}
OLD_HALF_S = 5.0  # agents before formula 9 divide by it; the scores in their bids are only recorded
KNOWN_VMMS = {vmm.value for vmm in Vmm}


def put_resources(value: Resources) -> pb.Resources:
    """Resources as a message."""
    return pb.Resources(vcpu=value.vcpu, memory_mib=value.memory_mib, disk_mib=value.disk_mib, vms=value.vms)


def get_resources(message: pb.Resources) -> Resources:
    """Resources of a message."""
    return Resources(message.vcpu, message.memory_mib, message.disk_mib, message.vms)


def put_facts(value: Facts) -> pb.Facts:
    """Facts as a message."""
    return pb.Facts(**value._asdict())


def get_facts(message: pb.Facts) -> Facts:
    """Facts of a message."""
    return Facts(
        message.pressure if message.HasField("pressure") else None,
        message.pending,
        message.boot_s,
        message.ahead_s if message.HasField("ahead_s") else None,
        message.pull_s if message.HasField("pull_s") else None,
        message.uncertainty if message.HasField("uncertainty") else UNCERTAINTY,
        message.pulls,
        message.boots_seen,
        message.pulls_seen,
    )


def put_welcome(term: int, weights: Weights) -> pb.Welcome:
    """The leader's welcome, with the weights that hosts price their bids by."""
    return pb.Welcome(
        term=term,
        pressure_weight=weights.pressure,
        delay_weight=weights.delay,
        delay_half_s=OLD_HALF_S,
        policy=weights.policy,
        shape_weight=weights.shape,
    )


def get_weights(message: pb.Welcome) -> Weights:
    """The weights of a welcome."""
    return Weights(message.pressure_weight, message.delay_weight, message.policy, message.shape_weight)


def put_report(value: Report) -> pb.Report:
    """A report as a message."""
    return pb.Report(
        facts=put_facts(value.facts),
        cpu_share=value.cpu_share,
        memory_used_mib=value.memory_used_mib,
        disk_free_mib=value.disk_free_mib,
        vms=value.vms,
        failed=value.failed,
        daemon_ok=value.daemon_ok,
        interval_s=value.interval_s,
        taken=put_resources(value.taken),
        cpu_stall=value.stalls.cpu,
        memory_stall=value.stalls.memory,
        io_stall=value.stalls.io,
        memory_free_mib=value.memory_free_mib,
        volumes_free_mib=value.volumes_free_mib,
        images=value.images,
        machine=put_machine(value.machine),
        flintlockd=value.flintlockd,
        at_hand=_put_host_images(value.at_hand),
    )


def put_images(images: Collection[Image]) -> pb.Images:
    """Images as a message."""
    return pb.Images(
        volumes=[image.ref for image in images if not image.kernel],
        kernels=[image.ref for image in images if image.kernel],
    )


def get_images(message: pb.Images, most: int | None = None) -> tuple[Image, ...]:
    """Images of a message: not more than `most` volumes, and as many kernels."""
    volumes, kernels = message.volumes[:most], message.kernels[:most]
    return (*map(Image, volumes), *(Image(ref, kernel=True) for ref in kernels))


def _put_host_images(images: HostImages | None) -> pb.HostImages | None:
    if images is None:
        return None
    return pb.HostImages(
        unpacked=put_images(sorted(images.unpacked)[: bounds.IMAGES]),
        coming=put_images(sorted(images.coming)[: bounds.IMAGES]),
    )


def _get_host_images(message: pb.HostImages) -> HostImages:
    unpacked, coming = (
        frozenset(image for image in get_images(part, bounds.IMAGES) if len(image.ref) <= bounds.TEXT_CHARS)
        for part in (message.unpacked, message.coming)
    )
    return HostImages(unpacked, coming - unpacked)


def put_machine(value: MachineFacts) -> pb.MachineFacts:
    """Facts about a machine as a message."""
    return pb.MachineFacts(
        cpu_model=value.cpu_model,
        kvm=value.kvm,
        providers_known=value.providers is not None,
        providers=value.providers or (),
        lacks=value.lacks,
    )


def get_machine(message: pb.MachineFacts) -> MachineFacts:
    """Facts about a machine of a message."""
    return MachineFacts(
        bounds.clean(message.cpu_model) if message.HasField("cpu_model") else None,
        message.kvm if message.HasField("kvm") else None,
        tuple(map(bounds.clean, message.providers[: bounds.TEXTS])) if message.providers_known else None,
        tuple(map(bounds.clean, message.lacks[: bounds.TEXTS])),
    )


def get_report(message: pb.Report) -> Report:
    """The report of a message. Raises ValueError."""
    report = Report(
        facts=get_facts(message.facts),
        cpu_share=message.cpu_share,
        memory_used_mib=message.memory_used_mib,
        disk_free_mib=message.disk_free_mib,
        vms=message.vms,
        failed=message.failed,
        daemon_ok=message.daemon_ok,
        interval_s=message.interval_s,
        taken=get_resources(message.taken),
        stalls=Stalls(
            message.cpu_stall if message.HasField("cpu_stall") else None,
            message.memory_stall if message.HasField("memory_stall") else None,
            message.io_stall if message.HasField("io_stall") else None,
        ),
        memory_free_mib=message.memory_free_mib if message.HasField("memory_free_mib") else None,
        volumes_free_mib=message.volumes_free_mib if message.HasField("volumes_free_mib") else None,
        images=message.images if message.HasField("images") else None,
        machine=get_machine(message.machine),
        flintlockd=bounds.name(message.flintlockd, "flintlockd"),
        at_hand=_get_host_images(message.at_hand) if message.HasField("at_hand") else None,
    )
    bounds.check_report(report)
    return report


def put_inventory(value: InventoryUpdate) -> pb.InventoryUpdate:
    """An inventory as a message."""
    return pb.InventoryUpdate(
        full=value.full,
        seen=map(_put_row, value.seen),
        gone=value.gone,
        creating=value.creating,
        deleted=map(_put_row, value.deleted),
    )


def _put_row(row: Observed) -> pb.MicroVM:
    return pb.MicroVM(
        uid=row.uid,
        namespace=row.namespace,
        name=row.name,
        demand=put_resources(row.demand),
        state=row.state.value,
        token=row.token,
        retry=row.retry,
        vmm=row.vmm.value,
    )


def get_inventory(message: pb.InventoryUpdate) -> InventoryUpdate:
    """The inventory of a message, without rows that cannot be microVMs. Raises ValueError."""
    for column in (message.seen, message.gone, message.creating, message.deleted):
        bounds.number(len(column), ROWS, "the number of microVMs")
    seen, deleted = (
        [_get_row(row) for row in rows if bounds.is_row(row)] for rows in (message.seen, message.deleted)
    )
    return InventoryUpdate(message.full, seen, list(message.gone), list(message.creating), tuple(deleted))


def _get_row(row: pb.MicroVM) -> Observed:
    return Observed(
        row.uid,
        bounds.clean(row.namespace),
        bounds.clean(row.name),
        bounds.clamped(get_resources(row.demand)),
        VmState(row.state),
        row.token if len(row.token) <= bounds.NAME_CHARS else "",
        max(row.retry, 0),
        vmm=Vmm(row.vmm) if row.vmm in KNOWN_VMMS else Vmm.UNKNOWN,
    )


def put_refusal(refusal: Refusal, lot: int = 0) -> pb.Refusal:
    """A refusal as a message."""
    return pb.Refusal(lot=lot, reason=refusal.reason.name, detail=refusal.detail)


def get_refusal(host_id: str, message: pb.Refusal) -> Refusal:
    """The refusal of a message. An unknown reason, from a newer agent, becomes DECLINED; so does the leader's own."""
    known = message.reason in HOSTS_REASONS
    reason = Reason[message.reason] if known else Reason.DECLINED
    detail = message.detail if known else f"{message.reason} {message.detail}".strip()
    return Refusal(host_id, reason, bounds.clean(detail))


def put_metadata(metadata: Metadata) -> list[pb.Pair]:
    """Metadata as messages."""
    return [pb.Pair(key=key, value=text.encode() if isinstance(text, str) else text) for key, text in metadata]


def get_metadata(pairs: Iterable[pb.Pair]) -> Metadata:
    """Metadata of messages, as far as it may be passed on."""
    values = ((pair.key, pair.value) for pair in pairs)
    return from_host((key, value if is_binary(key) else value.decode(errors="replace")) for key, value in values)


def put_outcome(order: int, outcome: Outcome) -> pb.Answer:
    """The outcome of a create as a message."""
    match outcome:
        case Created(uid, reply):
            return pb.Answer(order=order, uid=uid, payload=reply)
        case Denied(code, text, trailers, unclear):
            metadata = put_metadata(trailers)
            return pb.Answer(order=order, code=code, text=text, trailers=metadata, unclear=unclear)
        case Failed(code, text, trailers):
            metadata = put_metadata(trailers)
            return pb.Answer(order=order, kind=pb.Answer.FAILED, code=code, text=text, trailers=metadata)
        case NotTaken(refusal):
            return pb.Answer(order=order, kind=pb.Answer.NOT_TAKEN, refusal=put_refusal(refusal))
        case Unknown(text, fault):
            return pb.Answer(order=order, kind=pb.Answer.UNKNOWN, text=text, code=Code.UNKNOWN if fault else 0)
        case Ended(uid):
            return pb.Answer(
                order=order, kind=pb.Answer.UNKNOWN, uid=uid, text=f"its microVM {uid} was deleted since"
            )


def get_outcome(host_id: str, answer: pb.Answer) -> Outcome:
    """The outcome of a create of a message."""
    if answer.kind == pb.Answer.NOT_TAKEN:
        return NotTaken(get_refusal(host_id, answer.refusal))
    if answer.kind == pb.Answer.UNKNOWN:
        return Ended(answer.uid) if bounds.is_uid(answer.uid) else Unknown(answer.text, answer.code != 0)
    failed = answer.kind == pb.Answer.FAILED
    if answer.code == 0 and (failed or not bounds.is_uid(answer.uid)):
        return Unknown("its answer names no microVM")
    if answer.code == 0:
        return Created(answer.uid, answer.payload)
    code, metadata = bounds.status(answer.code), get_metadata(answer.trailers)
    return Failed(code, answer.text, metadata) if failed else Denied(code, answer.text, metadata, answer.unclear)
