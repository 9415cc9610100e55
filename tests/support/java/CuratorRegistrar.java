import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryOneTime;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.ServiceType;

/**
 * Curator's own service discovery: java CuratorRegistrar.java CONNECT BASE. Carries out a command a line, answers `ok` or
 * `error: …`.
 *
 * register NAME ID PORT · unregister ID · close
 */
public class CuratorRegistrar {
    public static void main(String[] arguments) throws Exception {
        CuratorFramework client =
            CuratorFrameworkFactory.newClient(arguments[0], 4000, 10000, new RetryOneTime(200));
        client.start();
        if (!client.blockUntilConnected(30, TimeUnit.SECONDS)) {
            throw new IllegalStateException("no connection");
        }
        @SuppressWarnings("rawtypes")
        ServiceDiscovery<Map> discovery =
            ServiceDiscoveryBuilder.builder(Map.class).client(client).basePath(arguments[1]).build();
        discovery.start();
        System.out.println("ok");
        Map<String, ServiceInstance<Map>> registered = new HashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            try {
                switch (words[0]) {
                    case "register":
                        ServiceInstance<Map> instance = ServiceInstance.<Map>builder()
                            .name(words[1])
                            .id(words[2])
                            .address("127.0.0.1")
                            .port(Integer.parseInt(words[3]))
                            .payload(Map.of("zone", "west", "version", "2.1"))
                            .serviceType(ServiceType.DYNAMIC)
                            .build();
                        discovery.registerService(instance);
                        registered.put(words[2], instance);
                        break;
                    case "unregister":
                        discovery.unregisterService(registered.remove(words[1]));
                        break;
                    case "close":
                        discovery.close();
                        client.close();
                        break;
                    default:
                        throw new IllegalArgumentException(words[0]);
                }
                System.out.println("ok");
            } catch (Exception error) {
                System.out.println("error: " + error);
            }
        }
        System.exit(0);
    }
}
