-- Tables of the observatory's database.
-- Levels are metres above Gauge Zero, times are UTC, flags are explained in quality-control.md.

CREATE TABLE sensor (
    code        TEXT PRIMARY KEY,               -- 'A', 'B', 'C'
    kind        TEXT NOT NULL,                  -- radar, bubbler, float
    since       DATE NOT NULL,
    until       DATE                            -- NULL while in service
);

CREATE TABLE reading (
    sensor      TEXT NOT NULL REFERENCES sensor (code),
    taken_at    TIMESTAMP NOT NULL,
    level_m     NUMERIC(6, 3),
    spread_m    NUMERIC(5, 3),                  -- standard deviation within the minute
    flag        SMALLINT NOT NULL DEFAULT 0 CHECK (flag IN (0, 1, 2, 3, 4, 9)),
    PRIMARY KEY (sensor, taken_at)
);

-- Who changed which flag, and why. Nothing is ever deleted from here.
CREATE TABLE flag_change (
    sensor      TEXT NOT NULL,
    taken_at    TIMESTAMP NOT NULL,
    old_flag    SMALLINT NOT NULL,
    new_flag    SMALLINT NOT NULL,
    changed_by  TEXT NOT NULL,
    changed_at  TIMESTAMP NOT NULL,
    reason      TEXT NOT NULL CHECK (length(reason) >= 10),
    FOREIGN KEY (sensor, taken_at) REFERENCES reading (sensor, taken_at)
);

-- Corrections are added when data are read; stored values stay as they were measured.
CREATE TABLE correction (
    sensor      TEXT NOT NULL REFERENCES sensor (code),
    valid_from  TIMESTAMP NOT NULL,
    valid_to    TIMESTAMP NOT NULL,
    offset_m    NUMERIC(6, 4) NOT NULL DEFAULT 0,
    drift_m_day NUMERIC(8, 6) NOT NULL DEFAULT 0,
    reason      TEXT NOT NULL,
    CHECK (valid_from < valid_to)
);

CREATE TABLE datum_check (
    checked_on  DATE NOT NULL,
    sensor      TEXT NOT NULL REFERENCES sensor (code),
    mean_mm     NUMERIC(5, 1) NOT NULL,
    spread_mm   NUMERIC(5, 1) NOT NULL,
    passed      BOOLEAN NOT NULL,
    PRIMARY KEY (checked_on, sensor)
);

-- Levels as they are published: good or filled values with every correction applied.
CREATE VIEW published AS
SELECT r.sensor,
       r.taken_at,
       r.level_m + COALESCE(SUM(
           c.offset_m
           + c.drift_m_day * EXTRACT(EPOCH FROM r.taken_at - c.valid_from) / 86400.0
       ), 0) AS level_m
FROM reading AS r
LEFT JOIN correction AS c
       ON c.sensor = r.sensor
      AND r.taken_at >= c.valid_from
      AND r.taken_at < c.valid_to
WHERE r.flag IN (1, 2)
GROUP BY r.sensor, r.taken_at, r.level_m;

-- How complete was each month? Used in the yearly report.
CREATE VIEW completeness AS
SELECT sensor,
       date_trunc('month', taken_at) AS month,
       100.0 * COUNT(*) FILTER (WHERE flag IN (1, 2)) / COUNT(*) AS percent_good
FROM reading
GROUP BY sensor, date_trunc('month', taken_at);
