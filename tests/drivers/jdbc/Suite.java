import java.io.Writer;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Map;
import java.util.TreeMap;

/** Runs every public method of the classes of tests: Suite DRIVER ENGINE PORT RESULTS. Writes what each saw, as JSON. */
public final class Suite {
    private static final Class<?>[] TESTS = {Statements.class, Prepared.class, Sessions.class, Logins.class};

    public static void main(String[] arguments) throws Exception {
        Map<String, String> outcomes = new TreeMap<>();
        for (Class<?> tests : TESTS) {
            Method[] methods = tests.getDeclaredMethods();
            Arrays.sort(methods, Comparator.comparing(Method::getName));
            for (Method method : methods) {
                if (!java.lang.reflect.Modifier.isPublic(method.getModifiers())) {
                    continue;
                }
                String name = arguments[0] + "::" + tests.getSimpleName() + "::" + method.getName();
                String only = System.getenv("ONLY");
                if (only == null || name.contains(only)) {
                    outcomes.put(name, outcome(method, arguments));
                }
            }
        }
        write(Path.of(arguments[3]), outcomes);
        System.exit(0);
    }

    private static String outcome(Method method, String[] arguments) throws Exception {
        Case c = new Case("mysql".equals(arguments[0]), "mysql97".equals(arguments[1]), Integer.parseInt(arguments[2]));
        long began = System.nanoTime();
        try {
            method.invoke(method.getDeclaringClass().getDeclaredConstructor().newInstance(), c);
            return "passed: " + c.seen;
        } catch (InvocationTargetException failure) {
            if (failure.getCause() instanceof Case.Skip) {
                return "skipped: " + failure.getCause().getMessage();
            }
            failure.getCause().printStackTrace();
            return "failed: " + c.told(failure.getCause()) + " after " + c.seen;
        } finally {
            System.out.printf("%s %d ms%n", method, (System.nanoTime() - began) / 1_000_000);
            c.close();
        }
    }

    private static void write(Path file, Map<String, String> outcomes) throws Exception {
        try (Writer out = Files.newBufferedWriter(file)) {
            String separator = "{\n";
            for (Map.Entry<String, String> entry : outcomes.entrySet()) {
                out.write(separator + quoted(entry.getKey()) + ": " + quoted(entry.getValue()));
                separator = ",\n";
            }
            out.write("\n}\n");
        }
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            out.append(c < ' ' || c > '~' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : String.valueOf(c));
        }
        return out.append('"').toString();
    }
}
