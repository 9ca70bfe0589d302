import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reacts to customers that are created, changed and deleted.
 *
 * <p>java -cp 'kafka-clients.jar:slf4j-api.jar' Subscriber.java BOOTSTRAP [GROUP] [--once]
 *
 * <p>The highest sequence of each customer drops what is given again. It is kept in memory, which serves after a rebalance;
 * against a crash between your work and the commit keep it in a table of your own, in the transaction of your work. --once
 * stops at the end of the topic instead of waiting for more.
 */
public class Subscriber {
  public static void main(String[] arguments) {
    List<String> given = List.of(arguments).stream().filter(one -> !one.startsWith("--")).toList();
    boolean once = List.of(arguments).contains("--once");
    Properties properties = new Properties();
    properties.put("bootstrap.servers", given.get(0));
    properties.put("group.id", given.size() > 1 ? given.get(1) : "example-java");
    properties.put("isolation.level", "read_committed");
    properties.put("enable.auto.commit", "false");
    properties.put("auto.offset.reset", "earliest");
    Map<String, Long> handled = new HashMap<>();
    try (KafkaConsumer<String, String> consumer =
        new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
      consumer.subscribe(List.of("customers.events"));
      while (true) {
        ConsumerRecords<String, String> records = consumer.poll(Duration.ofSeconds(1));
        for (ConsumerRecord<String, String> record : records) {
          long sequence = Long.parseLong(header(record, "ce_sequence"));
          if (sequence > handled.getOrDefault(record.key(), 0L)) {
            react(header(record, "ce_type"), record.key(), sequence);
            handled.put(record.key(), sequence);
          }
        }
        consumer.commitSync();
        if (once && atEnd(consumer)) {
          return;
        }
      }
    }
  }

  private static void react(String type, String key, long sequence) {
    System.out.println(key + " #" + sequence + ": " + type);
  }

  private static String header(ConsumerRecord<String, String> record, String name) {
    return new String(record.headers().lastHeader(name).value());
  }

  private static boolean atEnd(KafkaConsumer<String, String> consumer) {
    Map<TopicPartition, Long> ends = consumer.endOffsets(consumer.assignment());
    return !ends.isEmpty()
        && ends.entrySet().stream().allMatch(end -> consumer.position(end.getKey()) >= end.getValue());
  }
}
