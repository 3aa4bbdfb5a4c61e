"""Sensors: they notice change and ask for runs, nothing else.

A tick of a discovery sensor compares each connection's listing, as a digest, with the listing its documents were made
from. It works at most ``TICK_SECONDS``; where it stopped, the next tick goes on. A tick that sees no change asks for no
run. The corpus trigger waits until partitions that changed have been quiet for a moment, then asks for one release;
partitions that are missing or failing don't hold it up.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field

import dagster as dg

from kb_pipeline import stages
from kb_pipeline.defs.jobs import CORPUS_JOB, chain_job_name
from kb_pipeline.defs.orchestration import DISCOVERY, ORCHESTRATION_TAG, PARTITION_TAG, TRIGGER_TAG, UNDER_WAY, breaker_tag
from kb_pipeline.defs.partitions import partitions_def, unregistered_keys
from kb_pipeline.flow.errors import classify
from kb_pipeline.ingestion.chain import Chain
from kb_pipeline.ingestion.listed import ListingDigest
from kb_pipeline.ingestion.listing import digest_by_feed
from kb_pipeline.ingestion.workspace import Workspace
from kb_pipeline.knowledge_base import snapshot
from kb_pipeline.sources.base import Item, SourceConfig
from kb_pipeline.sources.circuit import sentence
from kb_pipeline.sources.resilient import Resilient
from kb_pipeline.storage import identity

TICK_SECONDS = 20.0
"""A tick's budget; Dagster itself gives up after 60."""
DEADLINE_ITEMS = 256
"""Items between two looks at the clock."""
FEED_SECONDS = 15.0
"""A change feed that gives no sign of life for so long has failed; a listing may take as long as its time-out, for a tick
needn't wait for it."""
SILENCE_SECONDS = 2.0
"""A tick leaves a connection of which nothing comes for so long, and looks at it again in the next."""
RETRY_SECONDS = 600.0
"""A change whose run failed is asked for again after this long."""
MAX_REQUESTS = 25
"""Runs one tick may ask for; more would flood the queue, and the next tick is seconds away."""
CORPUS_INTERVAL = 3
"""Seconds between two looks at the partition tables. Dagster's loop comes by every 5: with 5, it would often be early and
leave the sensor to its next round."""
_UNDER_WAY = "listing:"
_CORPUS_TAG = "kb/corpus"


@dataclass(slots=True)
class _Cursor:
    """Where a discovery sensor stands. ``after`` and ``partial``: last key and digest of a listing under way;
    ``requested``: connection -> [digest, time] of the last run asked for."""

    connection: str | None = None
    after: str | None = None
    partial: str = "0"
    requested: dict[str, tuple[str, float]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> "_Cursor":
        return cls(**json.loads(text)) if text else cls()

    def dump(self) -> str:
        return json.dumps(asdict(self))


def discovery(type_: str, workspace: Workspace) -> dg.SensorDefinition:
    """Notices changes at the connections of one type and asks for runs of their partitions."""
    under_way: dict[str, _UnderWay] = {}

    @dg.sensor(
        name=f"{type_}_discovery",
        job_name=chain_job_name(type_),
        minimum_interval_seconds=workspace.settings.sensors.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks for changes at every {type_} connection.",
    )
    def discover(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        cursor = _Cursor.parse(context.cursor)
        deadline = time.monotonic() + TICK_SECONDS
        requests: list[dg.RunRequest] = []
        notes: list[str] = []
        new_keys = unregistered_keys(context.instance, workspace, type_)
        for config in _in_turn(workspace, type_, cursor.connection):
            if time.monotonic() > deadline or len(requests) >= MAX_REQUESTS:
                break
            if (breaker := workspace.circuit(config.name).refuses()) is not None:
                notes.append(f"{config.name}: {sentence(breaker)}")
                continue
            try:
                digest = _digest(workspace, config, cursor, deadline, under_way)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one connection must not stop the others
                notes.append(f"{config.name}: {error}")
                context.log.warning(notes[-1])
                workspace.record_listing(config.name, (classify(error).value, str(error)))
                cursor.connection, cursor.after, cursor.partial = config.name, None, "0"
                continue
            if digest is None and config.name in under_way and under_way[config.name].silent:
                notes.append(f"{config.name}: no answer yet")
                continue
            if digest is None:
                notes.append(f"{config.name}: still being listed, up to {cursor.after}")
                break
            workspace.record_listing(config.name, None)
            cursor.connection, cursor.after, cursor.partial = config.name, None, "0"
            requests.extend(_requests(context.instance, workspace, config, digest, cursor))
        reason = "; ".join(notes) or "nothing changed"
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason(reason),
            cursor=cursor.dump(),
            dynamic_partitions_requests=[partitions_def(type_).build_add_request(new_keys)] if new_keys else [],
        )

    return discover


def _in_turn(workspace: Workspace, type_: str, last: str | None) -> Iterator[SourceConfig]:
    """Connections of the type, beginning after the last one looked at, so that a slow one starves nobody."""
    configs = [config for config in workspace.connections if config.type == type_]
    names = [config.name for config in configs]
    start = 0
    if last is not None:
        under_way = last.removeprefix(_UNDER_WAY)
        if under_way in names:
            start = names.index(under_way) + (0 if last.startswith(_UNDER_WAY) else 1)
    yield from configs[start:]
    yield from configs[:start]


@dataclass(slots=True)
class _UnderWay:
    """A listing that a tick had to leave: the iterator itself, so that the next tick doesn't list from the start.

    ``silent``: it was left because nothing came of it, to look at the others meanwhile. It is known to this process only.
    """

    items: Iterator[Item | None]
    digest: ListingDigest
    after: str | None = None
    silent: bool = False


def _digest(
    workspace: Workspace, config: SourceConfig, cursor: _Cursor, deadline: float, under_way: dict[str, _UnderWay]
) -> str | None:
    """Digest of a connection's listing; None when time ran out, with the place noted in the cursor.

    A source with a change feed is asked for what happened since its last listing.
    """
    resumed = cursor.after if cursor.connection == _UNDER_WAY + config.name else None
    kept = under_way.pop(config.name, None)
    if kept is None or not (kept.silent or kept.after == resumed):
        with closing(workspace.ask(config.name, patiently=False, most_seconds=FEED_SECONDS)) as source:
            told = digest_by_feed(workspace.storage, config.type, config.name, source, workspace.fingerprint(config.name))
        if told is not None:
            return told
        # From the start; after a restart of this process, what the cursor covers is skipped.
        digest = ListingDigest(cursor.partial if resumed is not None else "0")
        kept = _UnderWay(_counted(workspace.ask(config.name, patiently=False)), digest, resumed)
    kept.silent = False
    quiet_since: float | None = None
    for count, item in enumerate(kept.items, start=1):
        if item is None:
            now = time.monotonic()
            quiet_since = quiet_since or now
            if now - quiet_since > SILENCE_SECONDS:
                kept.silent = True
                under_way[config.name] = kept
                return None
            continue
        quiet_since = None
        if kept.after is None or item.key > kept.after:
            kept.digest.add(item)
            kept.after = item.key
        if count % DEADLINE_ITEMS == 0 and time.monotonic() > deadline:
            cursor.connection, cursor.after, cursor.partial = _UNDER_WAY + config.name, kept.after, kept.digest.value()
            under_way[config.name] = kept
            return None
    return kept.digest.value()


def _counted(source: Resilient) -> Iterator[Item | None]:
    """The items of a source as they come; at the end, what was counted of its errors is kept."""
    with closing(source):
        yield from source.list_as_it_comes()


def _requests(
    instance: dg.DagsterInstance, workspace: Workspace, config: SourceConfig, digest: str, cursor: _Cursor
) -> Iterator[dg.RunRequest]:
    if _settled(workspace, config, digest):
        cursor.requested.pop(config.name, None)
        return
    asked = cursor.requested.get(config.name)
    now = time.time()
    if asked is not None and asked[0] == digest and now - asked[1] < RETRY_SECONDS:
        return
    partitions = workspace.partitions(config.name)
    if _running(instance, chain_job_name(config.type), {each.key for each in partitions}):
        return  # the run under way may take the change in; if not, the next tick asks
    cursor.requested[config.name] = (digest, now)
    tags = {TRIGGER_TAG: DISCOVERY, ORCHESTRATION_TAG: f"{config.name}:{digest}:{int(now)}"}
    tags |= breaker_tag(workspace, config.name)
    for partition in partitions:
        yield dg.RunRequest(run_key=f"{partition.key}:{digest}:{int(now)}", partition_key=partition.key, tags=tags)


def _settled(workspace: Workspace, config: SourceConfig, digest: str) -> bool:
    """Whether the documents of every partition were made from a listing with this digest, and nobody asked to retry."""
    if workspace.ledger.retries.of(config.name):
        return False
    return all(
        workspace.ledger.listings.applied(config.type, partition.key) == digest
        and snapshot.state(workspace.storage, partition) is not None
        for partition in workspace.partitions(config.name)
    )


def _running(instance: dg.DagsterInstance, job_name: str, keys: set[str]) -> bool:
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=UNDER_WAY))
    return any(run.tags.get(PARTITION_TAG) in keys for run in runs)


def corpus_trigger(chain: Chain) -> dg.SensorDefinition:
    """Asks for a release once changed partitions have been quiet for ``sensors.debounce_seconds``.

    Where nothing changes it asks once in ``freshness.confirm_hours``, so that readers can tell an index that is in step from
    one that nobody looked at.
    """
    workspace = chain.workspace
    confirm_seconds = workspace.settings.freshness.confirm_hours * 3600.0

    @dg.sensor(
        name="corpus_trigger",
        job_name=CORPUS_JOB,
        minimum_interval_seconds=CORPUS_INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes a release after partitions changed and came to rest.",
    )
    def trigger(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        fingerprint, changed_at = _corpus(chain)
        seen: dict[str, str | float] = json.loads(context.cursor) if context.cursor else {}
        now = time.time()
        if fingerprint == seen.get("released"):
            waited = now - float(seen.get("asked", 0.0))
            to_confirm = waited >= confirm_seconds
            if not to_confirm and (waited < RETRY_SECONDS or "arrived" in seen):
                return dg.SkipReason("no partition changed")
            if not to_confirm and not _failed(context.instance, fingerprint):
                cursor = json.dumps({**seen, "arrived": 1.0})
                return dg.SensorResult(skip_reason=dg.SkipReason("no partition changed"), cursor=cursor)
            del seen["released"]  # the release that was asked for didn't come about, or is to be confirmed
            seen |= {"pending": fingerprint, "since": 0.0}
        if changed_at is None and "released" not in seen:
            return dg.SkipReason("no partition is complete yet")
        if fingerprint != seen.get("pending"):
            seen |= {"pending": fingerprint, "since": now if changed_at is None else min(now, changed_at)}
        quiet = now - float(seen["since"])
        if quiet < workspace.settings.sensors.debounce_seconds:
            return dg.SensorResult(skip_reason=dg.SkipReason("partitions are still changing"), cursor=json.dumps(seen))
        if context.instance.get_runs(dg.RunsFilter(job_name=CORPUS_JOB, statuses=UNDER_WAY), limit=1):
            return dg.SensorResult(skip_reason=dg.SkipReason("a release is under way"), cursor=json.dumps(seen))
        request = dg.RunRequest(run_key=f"{fingerprint}:{int(now)}", tags={TRIGGER_TAG: "corpus", _CORPUS_TAG: fingerprint})
        return dg.SensorResult(run_requests=[request], cursor=json.dumps({"released": fingerprint, "asked": now}))

    return trigger


def _failed(instance: dg.DagsterInstance, fingerprint: str) -> bool:
    """Whether the last release asked for with this digest failed; one that a person cancelled didn't."""
    runs = instance.get_runs(dg.RunsFilter(job_name=CORPUS_JOB, tags={_CORPUS_TAG: fingerprint}), limit=1)
    return bool(runs) and runs[0].status == dg.DagsterRunStatus.FAILURE


def _corpus(chain: Chain) -> tuple[str, float | None]:
    """A digest of what every partition would bring into a release, and when the last of it came. Opens no table.

    The fingerprint of the last stage covers those before it. A chain under way replaces its table last, so that the
    digest changes once, when the partition is complete. Seconds since the epoch; None while there is no partition.
    """
    last = f"/{stages.last().name}"
    pointers = [each for each in chain.workspace.ledger.pointers.all() if each.asset.endswith(last)]
    found = [(each.asset.removesuffix(last), each.partition, each.fingerprint) for each in pointers]
    newest = max((each.published_at for each in pointers), default=None)
    return identity.digest(sorted(found), sorted(chain.workspace.ledger.retirements.all())), newest
