# Completion of undial's command line for bash; printed by `undial completion bash`, for
#   eval "$(undial completion bash)"
# It holds all words itself, so that no program runs when the tab key is pressed.

@LOOKUPS@

_undial() {
  local line=${COMP_LINE:0:COMP_POINT} current command word key value listed="" folder="" file i
  local -a typed
  current=${line##*[[:space:]]}
  COMPREPLY=()
  read -r -a typed <<< "$line"
  if [[ ${#typed[@]} -le 1 || ( ${#typed[@]} -eq 2 && -n $current ) ]]; then
    COMPREPLY=($(compgen -W "@COMMANDS@" -- "$current"))
    return
  fi
  command=${typed[1]}
  if [[ $current != *=* ]]; then
    for word in $(_undial_words "$command"); do
      # Sections first, as `train.`, so that the list stays short.
      [[ $word == *.*= && $current != *.* ]] && word=${word%%.*}.
      [[ $word == "$current"* && " ${COMPREPLY[*]} " != *" $word "* ]] && COMPREPLY+=("$word")
    done
    case $command in
      @PATH_COMMANDS@)
        while read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -S / -- "$current") ;;
    esac
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]]; then
      compopt -o nospace 2>/dev/null
    fi
    return 0
  fi
  key=${current%%=*}
  value=${current#*=}
  [[ $value == *,* ]] && listed=${value%,*},  # what stands before it: method=undial,npo
  word=$(_undial_values "$key")
  for ((i = 2; i < ${#typed[@]}; i++)); do
    case ${typed[i]} in
      --config-dir | -cd) folder=${typed[i + 1]} ;;
      --config-dir=* | -cd=*) folder=${typed[i]#*=} ;;
    esac
  done
  if [[ -n $folder ]]; then  # the user's configs are options too
    for file in "$folder/$key"/*.yaml; do
      file=${file##*/}
      # compgen would run what a name like $(...) says.
      [[ ${file%.yaml} =~ ^[A-Za-z0-9_-]+$ ]] && word+=" ${file%.yaml}"
    done
  fi
  COMPREPLY=($(compgen -P "$listed" -W "$word" -- "${value##*,}"))
  if [[ $COMP_WORDBREAKS != *=* ]]; then  # then bash replaces the key as well
    COMPREPLY=("${COMPREPLY[@]/#/$key=}")
  fi
}

complete -o default -F _undial undial
