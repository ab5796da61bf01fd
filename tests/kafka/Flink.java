// Flink SQL over topics, up to their ends: every row of their changelogs on a line of its own.

import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

public class Flink {
    private static final DateTimeFormatter MOMENT =
        DateTimeFormatter.ofPattern("uuuu-MM-dd'T'HH:mm:ss.SSSSSS'Z'").withZone(ZoneOffset.UTC);

    /** Brokers; then topics, each with `true` where its messages carry their schemas. */
    public static void main(String[] arguments) throws Exception {
        TableEnvironment flink = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        flink.getConfig().set("parallelism.default", "1");
        StringBuilder query = new StringBuilder();
        for (int next = 1; next < arguments.length; next += 2) {
            String topic = arguments[next];
            String schemas = arguments[next + 1];
            flink.executeSql(
                "CREATE TABLE users" + next + " (id STRING, raw_json STRING, name STRING, email STRING,"
                    + " created_at TIMESTAMP_LTZ(6), deleted_at TIMESTAMP_LTZ(6), updated_at TIMESTAMP_LTZ(6))"
                    + " WITH ('connector' = 'kafka', 'topic' = '" + topic + "',"
                    + " 'properties.bootstrap.servers' = '" + arguments[0] + "',"
                    + " 'properties.isolation.level' = 'read_committed',"
                    + " 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',"
                    + " 'format' = 'debezium-json', 'debezium-json.schema-include' = '" + schemas + "',"
                    + " 'debezium-json.timestamp-format.standard' = 'ISO-8601')");
            query.append(next > 1 ? " UNION ALL " : "").append("SELECT '" + topic + "', * FROM users" + next);
        }
        try (CloseableIterator<Row> rows = flink.executeSql(query.toString()).collect()) {
            while (rows.hasNext()) {
                Row row = rows.next();
                StringBuilder line = new StringBuilder(row.getKind().shortString());
                for (int field = 0; field < row.getArity(); field++) {
                    Object value = row.getField(field);
                    line.append('\t').append(value instanceof Instant moment ? MOMENT.format(moment) : value);
                }
                System.out.println(line);
            }
        }
    }
}
