"""What is known of flights from New York's three airports, and from when on. `prepare.py` writes the files."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

flight = Entity(name="flight", join_keys=["flight_id"], value_type=ValueType.INT64)
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING)


def numbers(*names: str) -> list[Field]:
    return [Field(name=name, dtype=Float64) for name in names]


def delays(name: str, entities: list[Entity]) -> FeatureView:
    """Delays of the departures of three hours: the event is the hour, created when that much of it was known."""
    return FeatureView(
        name=name,
        entities=entities,
        ttl=timedelta(hours=6),
        schema=numbers("departure_delay", "arrival_delay", "late_share", "landed"),
        source=FileSource(path=f"data/{name}.parquet", timestamp_field="hour", created_timestamp_column="known"),
    )


schedule = FeatureView(
    name="schedule",
    entities=[flight],
    ttl=timedelta(days=2),
    schema=[
        *(Field(name=name, dtype=Int64) for name in ("origin_code", "carrier_code", "dest_code", "weekday")),
        *numbers("hour", "distance"),
    ],
    source=FileSource(path="data/schedule.parquet", timestamp_field="known"),
)
weather = FeatureView(
    name="weather",
    entities=[origin],
    ttl=timedelta(hours=4),
    schema=numbers("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"),
    source=FileSource(path="data/weather.parquet", timestamp_field="hour", created_timestamp_column="known"),
)
airport = delays("airport", [origin])
airline = delays("airline", [origin, carrier])
route = delays("route", [origin, dest])

late = FeatureService(name="late", features=[schedule, weather, airport, airline, route])
