"""The kb.yaml that `kb init` writes.

What belongs here: every setting with its default and a comment. What doesn't: writing the file.
"""

from __future__ import annotations

_TEMPLATE = """\
# Settings of this knowledge base. Relative paths are relative to this file; unknown keys are errors.
# Every setting below shows its default. A secret never stands here: {env: NAME} names an environment variable.

# Where everything is kept: tables, vectors, the index, uploaded files.
storage:
  url: ./.kb                      # a folder, or s3://BUCKET/PREFIX; the other keys are for S3
  endpoint_url: null              # of a server that speaks S3; null: Amazon's
  region: null                    # of the bucket
  access_key: null                # {env: NAME}; null, as secret_key: what the environment gives
  secret_key: null                # {env: NAME}

# The database that all processes of this knowledge base share: who writes what, how connections fare.
ledger:
  url: null                       # null: ledger.sqlite in the storage folder; sqlite:///PATH; postgresql://USER@HOST/NAME
  password: null                  # {env: NAME}, for Postgres

# How much of the machine a run may take: low-memory, balanced or high-throughput.
profile: balanced

# What the knowledge base is made from. Names are unique: lower-case letters, digits, "-" and "_".
# An upload connection named "inbox" always exists, for `kb upload FILE`.
sources:
  - name: documents
    type: local_directory         # the files below a folder
    path: ./documents
    include: ["**"]               # patterns relative to path: ** any depth, * within a name, e.g. "**/*.md"
    exclude: []                   # e.g. ["**/drafts/**"]
    hidden: false                 # true: files and folders whose name begins with a dot as well
    follow_links: false           # true: symbolic links to folders and to places outside path as well
    shards: 1                     # partitions this connection is split into (1 to 999)

  # - name: archive
  #   type: local_zip             # the members of zip archives, read in place
  #   path: ./archives/*.zip      # one archive, or a pattern
  #   include: ["**"]             # patterns of members, by their path in the archive
  #   exclude: []
  #   max_members: 100000         # of one archive, with those of archives in it
  #   max_unpacked_bytes: 17179869184  # what its members may unpack to together
  #   max_ratio: 200              # unpacked to packed bytes of a large member
  #   max_depth: 2                # archives opened within each other; 1: none in an archive
  #   max_nested_bytes: 268435456 # of an archive in an archive

  # - name: scans
  #   type: upload                # one more inbox, for `kb upload FILE --connection scans`

# The embedding model.
model:
  name: all-MiniLM-L6-v2          # the packaged default; any sentence-transformers name, or a folder
  # revision: main                # where a model hub has several
  # sha256:                       # expected hash of the weights: 64 hexadecimal digits
  device: auto                    # auto, cpu, cuda, mps
  dtype: auto                     # auto, float32, float16, bfloat16

# How documents are cut into chunks.
chunking:
  tokens: null                    # tokens per chunk; null: as many as the model takes
  overlap: 0                      # tokens that neighbouring chunks share
  respect_headings: true          # never put text of two sections into one chunk
  by_media_type: {}               # what differs, e.g. {text/csv: {chunker: table, tokens: 128}, "text/*": {overlap: 20}}

# How change is noticed, and how often everything is checked.
sensors:
  interval_seconds: 10            # between two looks at the sources (at least 5)
  debounce_seconds: 5             # of quiet before the corpus is synced
schedule:
  cron: "0 3 * * *"               # minute hour day-of-month month day-of-week
  timezone: UTC                   # an IANA name like Europe/Berlin

# The knowledge base counts as out of date in the Dagster UI after so long without a successful release run. One that
# changed nothing counts: it is asked for every third of this time.
freshness:
  hours: 36

# Who answers for the assets, as the Dagster UI shows it: teams and e-mail addresses.
owners: []                        # e.g. ["team:search", "ada@example.org"]

# How much of Dagster's run history stays.
history:
  keep_runs: 3                    # finished runs of each job and partition
  keep_materializations: 20       # of each asset partition, whose numbers the UI plots

# How runs are executed.
executor: in_process              # or multiprocess: one process per step
pools:                            # how many steps of a kind may run at a time
  gpu: 1                          # steps that use the model
  # local_directory: 2            # steps of a source type

# Bounds of a run. The profile decides; a number here overrides it.
limits:
  max_item_bytes: null            # bytes; a larger item is set aside
  parse_seconds: null             # seconds; parsing that takes longer is stopped
  parse_memory_mib: null          # MiB that parsing one item may take
  max_concurrent_sources: null    # connections worked on at a time
  max_concurrent_files: null      # items of one connection in flight at a time
"""


def template() -> str:
    """A commented kb.yaml, valid as it stands."""
    return _TEMPLATE
