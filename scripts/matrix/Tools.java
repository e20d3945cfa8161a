// Runs Apache Kafka's command-line tools one after the other in one JVM, because starting a JVM
// costs more than most of them do. A request is one line of JSON on standard input,
// {"class": [candidates], "args": [...], "stdin": "...", "seconds": N}; the answer is one line,
// {"code": N, "out": "...", "err": "..."}. A tool's way out, Exit.exit, ends its thread only.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.kafka.common.utils.Exit;

public final class Tools {
    /** Thrown in place of the end of the JVM; an Error, so that few tools catch it. */
    @SuppressWarnings("serial")
    static final class Left extends Error { }

    static volatile Integer code;
    /** What a tool wants done at the end of its JVM: the console producer sends its last batch there. */
    static final List<Runnable> HOOKS = new CopyOnWriteArrayList<>();

    static Class<?> find(JsonNode candidates) throws ClassNotFoundException {
        for (JsonNode c : candidates) {
            try { return Class.forName(c.asText()); } catch (ClassNotFoundException e) { continue; }
        }
        throw new ClassNotFoundException("none of " + candidates + " is in the jars");
    }

    static void leave(int status) {
        if (code == null) code = status;
        throw new Left();
    }

    static void call(JsonNode request, PrintStream err) {
        try {
            List<String> args = new ArrayList<>();
            request.get("args").forEach(a -> args.add(a.asText()));
            Method main = find(request.get("class")).getMethod("main", String[].class);
            main.invoke(null, (Object) args.toArray(new String[0]));
        } catch (InvocationTargetException e) {
            if (!(e.getCause() instanceof Left)) {
                e.getCause().printStackTrace(err);
                if (code == null) code = 1;
            }
        } catch (ReflectiveOperationException e) {
            e.printStackTrace(err);
            code = 127;
        }
        HOOKS.forEach(Runnable::run);
        HOOKS.clear();
    }

    public static void main(String[] args) throws Exception {
        Exit.setExitProcedure((status, message) -> leave(status));
        Exit.setHaltProcedure((status, message) -> leave(status));
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        ObjectMapper json = new ObjectMapper();
        BufferedReader in = new BufferedReader(
            new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream answers = System.out;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode request = json.readTree(line);
            ByteArrayOutputStream out = new ByteArrayOutputStream(), err = new ByteArrayOutputStream();
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            PrintStream errors = new PrintStream(err, true, StandardCharsets.UTF_8);
            System.setErr(errors);
            System.setIn(new ByteArrayInputStream(
                request.get("stdin").asText().getBytes(StandardCharsets.UTF_8)));
            code = null;
            Thread tool = new Thread(() -> call(request, errors), "tool");
            tool.setDaemon(true);
            tool.start();
            tool.join(request.get("seconds").asInt() * 1000L);
            int status = tool.isAlive() ? 124 : code == null ? 0 : code;
            answers.println(json.writeValueAsString(Map.of("code", status,
                "out", out.toString(StandardCharsets.UTF_8),
                "err", err.toString(StandardCharsets.UTF_8))));
            if (tool.isAlive()) Runtime.getRuntime().halt(124);
        }
        Runtime.getRuntime().halt(0);
    }
}
